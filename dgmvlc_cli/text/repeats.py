"""Several rows of one subject: which one is kept, by a rule that the schema declares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.cells import are_dates, date_order, dates_of, numbers_of
from dgmvlc_cli.text.schema import Schema, SeveralRows

LISTED = 10


@dataclass(frozen=True)
class Dropped:
    """keep: positions of the rows kept, in the table's order.  dropped: subject, row, reason."""

    keep: np.ndarray
    dropped: pd.DataFrame


def one_row_each(table: pd.DataFrame, ids: pd.Series, schema: Schema) -> Dropped:
    """One row per subject: the first of rows that are the same, else by the declared rule.

    Raises DgmvlcError where rows of one subject differ and no rule says which one counts.
    """
    same = table.assign(**{schema.id_column: ids}).duplicated().to_numpy()
    repeated = ids[~same].duplicated(keep=False)
    if not repeated.any():
        return Dropped(np.flatnonzero(~same), _record(ids, same, "the same as an earlier row"))
    rule = schema.several_rows
    if rule is None:
        raise _no_rule(ids[~same][repeated], schema.id_column)
    order = _order(table, rule, schema)
    ranked = pd.DataFrame({"subject": ids.to_numpy(), "order": order})[~same]
    # A stable sort: where the rule does not decide, the first row stays.
    first = ranked.sort_values("order", kind="stable").groupby("subject", sort=False).head(1)
    keep = np.sort(first.index.to_numpy())
    others = ~same
    others[keep] = False
    dropped = [
        _record(ids, same, "the same as an earlier row"),
        _record(ids, others, f"another row is kept: {rule.text}"),
    ]
    return Dropped(keep, pd.concat(dropped, ignore_index=True).sort_values("row", kind="stable"))


def _record(ids: pd.Series, rows: np.ndarray, reason: str) -> pd.DataFrame:
    positions = np.flatnonzero(rows)
    return pd.DataFrame(
        {"subject": ids.iloc[positions].to_numpy(), "row": positions + 1, "reason": reason}
    )


def _no_rule(ids: pd.Series, column: str) -> DgmvlcError:
    twice = list(ids.unique())
    more = f" and {len(twice) - LISTED} more" if len(twice) > LISTED else ""
    return DgmvlcError(
        f'column "{column}" has {len(twice)} ids more than once, in rows that differ: '
        f"{', '.join(twice[:LISTED])}{more}",
        "Say under [schema] in dgmvlc.toml which row counts, for example "
        'several_rows = {keep = "first"} or {keep = "nearest", by = "Weeks"}; '
        "or name another id_column.",
    )


def _order(table: pd.DataFrame, rule: SeveralRows, schema: Schema) -> np.ndarray:
    """A number per row: the lowest of each subject is kept."""
    if rule.keep in ("first", "last"):
        rows = np.arange(len(table), dtype=float)
        return rows if rule.keep == "first" else -rows
    values = _values(table, rule, schema)
    order = {"lowest": values, "highest": -values, "nearest": np.abs(values)}[rule.keep]
    return np.where(np.isnan(order), np.inf, order)


def _values(table: pd.DataFrame, rule: SeveralRows, schema: Schema) -> np.ndarray:
    """The column as numbers; a date counts in days, from the scan where its date is known."""
    column = table[rule.by]
    if not are_dates(column.unique()):
        return column.map(numbers_of(column)).to_numpy(dtype=float)
    order = date_order(table[name].unique() for name in table.columns)
    days = _ordinals(column, order)
    if rule.keep == "nearest" and schema.scan_date:
        return days - _ordinals(table[schema.scan_date], order)
    return days


def _ordinals(column: pd.Series, order: str) -> np.ndarray:
    return np.array([day.toordinal() if day else np.nan for day in dates_of(list(column), order)])
