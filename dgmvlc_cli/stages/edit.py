"""`dgmvlc describe --edit`: one subject's sentence before and after an edit of its row."""

from __future__ import annotations

from collections.abc import Mapping

from dgmvlc_cli.config import Settings
from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.stages.base import StageResult
from dgmvlc_cli.stages.describe import FEW, read_rows
from dgmvlc_cli.workspace import Workspace


def edit(
    ws: Workspace, settings: Settings, subject: str | None, edits: Mapping[str, str]
) -> StageResult:
    """Both sentences with the difference in brackets, and what came of each attribute.

    edits: attribute -> level or number.  Nothing is written.  Raises UsageError for a name,
    level or subject that is unknown, ContradictionError where the rest of the row forbids it.
    """
    from dgmvlc_cli.text.describe import sentence
    from dgmvlc_cli.text.edits import bracketed, changes, edit_notes, edit_row
    from dgmvlc_cli.text.schema import unknown_name

    said = read_rows(ws, settings)
    if subject is None:
        some = ", ".join(map(str, said.rows.index[:FEW]))
        raise UsageError("An edit needs a subject.", f"Name one at the end, such as {some}.")
    if subject not in said.rows.index:
        raise unknown_name("subject", subject, said.rows.index)
    row = {str(name): value for name, value in said.rows.loc[subject].items()}
    scan_year = float(said.cleaned.scan_years[subject])
    edited = edit_row(row, edits, said.schema, said.rows, scan_year=scan_year)
    before, after = sentence(row, said.schema), sentence(edited, said.schema)
    marked = bracketed(before, after)
    notes = edit_notes(row, edited, edits, said.schema, said.rows, scan_year=scan_year)
    return StageResult(
        stage="edit",
        summary=[f"before: {marked[0]}", f"after:  {marked[1]}", *notes],
        facts={
            "subject": subject,
            "before": before,
            "after": after,
            "changes": changes(row, edited),
            "notes": notes,
        },
    )
