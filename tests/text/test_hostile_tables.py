"""Tables as they come: each gives a result or one clear message."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from commands import dgmvlc
from test_describe_stage import workspace
from text_helpers import cohort_table


def described(folder: Path, table: pd.DataFrame, encoding: str = "utf-8") -> pd.DataFrame:
    """The prompts of a table that was written as csv, by `init`'s schema."""
    table.to_csv(folder / "clinical.csv", index=False, encoding=encoding)
    dgmvlc("describe", *workspace(folder, folder / "clinical.csv"))
    return pd.read_csv(folder / "text" / "prompts.tsv", sep="\t", dtype=str)


def test_a_table_with_everything_wrong_that_can_be_read_is_described(tmp_path: Path):
    table = cohort_table(30)
    table["subject"] = [f"{1000 + i}.0" for i in range(30)]  # ids read as numbers
    table["scan_date"] = [
        (f"2021-03-{1 + i % 28:02d}", f"{1 + i % 28}/04/2021", f"{1 + i % 28:02d}.05.2021")[i % 3]
        for i in range(30)
    ]  # three formats
    table["Onset date"] = [f"{13 + i % 3} Feb 2015" for i in range(29)] + ["Not Collected"]
    table["Platelets"] = [f"{150 + i},{i:03d}" for i in range(30)]  # thousands
    table["bmi"] = [text.replace(".", ",") for text in table["bmi"]]  # decimals
    table["country"] = "Deutschland"  # one value
    table["Ward"] = ["Österreich", "Kärnten"] * 15
    table["free text"] = [f"note {i}" for i in range(30)]
    again = pd.concat([table, table.iloc[[3]]])  # a row twice
    content = again.to_csv(index=False).splitlines()
    lines = [line.encode("cp1252" if i % 2 else "utf-8") for i, line in enumerate(content)]
    (tmp_path / "clinical.csv").write_bytes(b"\r\n".join(lines))  # two encodings

    dgmvlc("describe", *workspace(tmp_path, tmp_path / "clinical.csv"))
    prompts = pd.read_csv(tmp_path / "text" / "prompts.tsv", sep="\t", dtype=str)
    assert prompts["subject"].tolist() == [str(1000 + i) for i in range(30)]
    first = prompts["sentence"][0]
    assert "Platelets: 150000." in first
    assert f"Body mass index: {float(cohort_table(30)['bmi'][0]):.1f} kg/m2." in first
    assert "Onset: 6.0 years before the scan." in first
    assert "Ward: Österreich." in first and "Ward: Kärnten." in prompts["sentence"][1]
    assert not prompts["sentence"].str.contains("Deutschland|note|Onset: nan|\\d{4}-\\d\\d").any()
    assert "Onset" not in prompts["sentence"][29]


def test_300_columns_give_sentences_that_can_be_read(tmp_path: Path):
    table = cohort_table(40)
    more = {f"marker {j}": [str((i * (j + 3)) % 23) for i in range(40)] for j in range(291)}
    prompts = described(tmp_path, pd.concat([table, pd.DataFrame(more, dtype=object)], axis=1))
    assert len(prompts) == 40
    assert prompts["sentence"].str.count("Marker").max() <= 12
    assert prompts["sentence"].str.contains("Smoking status").all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.assign(subject="s1"), "1 ids more than once, in rows that differ: s1"),
        (lambda t: t.assign(subject=["", *t["subject"][1:]]), "in 1 row: 1"),
        (lambda t: t[["subject", "age", "sex"]], 'unknown column of the table "bmi"'),
        (lambda t: t.rename(columns={"bmi": "age"}), "columns of the same name: age"),
        (lambda t: t.iloc[:0], "no rows"),
    ],
)
def test_what_cannot_be_described_has_one_message(tmp_path: Path, change, said: str):
    good = tmp_path / "good.csv"
    cohort_table(20).to_csv(good, index=False)
    w = workspace(tmp_path, good)
    change(cohort_table(20)).to_csv(good, index=False)
    done = dgmvlc("describe", *w, expect=None)
    assert done.returncode in (1, 2)
    assert said in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("cell", "said"),
    [("", "20 empty."), ("rauchend", '20 unknown level (the table has "rauchend")')],
)
def test_a_studied_attribute_that_nobody_has_is_refused(cell: str, said: str, tmp_path: Path):
    good = tmp_path / "good.csv"
    cohort_table(20).to_csv(good, index=False)
    w = workspace(tmp_path, good)
    cohort_table(20).assign(smoking_status=cell).to_csv(good, index=False)
    done = dgmvlc("describe", *w, expect=1)
    assert said in " ".join(done.stderr.split())


def test_an_attribute_that_nobody_has_is_warned_about(tmp_path: Path):
    good = tmp_path / "good.csv"
    cohort_table(20).to_csv(good, index=False)
    w = workspace(tmp_path, good)
    cohort_table(20).assign(sex="?!").to_csv(good, index=False)
    said = " ".join(dgmvlc("describe", *w).stdout.split())
    assert "WARNING: sex has no usable value and is never said" in said
