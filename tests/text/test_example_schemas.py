"""The ready schemas of examples/: on the real table, or on the columns their authors publish."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from text_helpers import table_of

from dgmvlc_cli.config import load_settings
from dgmvlc_cli.text.cleaning import Cleaned, clean
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.edits import edit_row
from dgmvlc_cli.text.schema import Schema

EXAMPLES = Path(__file__).parents[2] / "examples"


def schema(name: str) -> Schema:
    settings = load_settings(EXAMPLES / f"{name}.toml")
    studied = settings.require_schema().attributes[settings.study.attribute or ""]
    assert {settings.study.reference, settings.study.target} <= set(studied.levels)
    return settings.require_schema()


def said(cleaned: Cleaned, subject: str, of: Schema) -> str:
    return sentence(cleaned.rows.loc[subject].to_dict(), of)


def test_nsclc_radiogenomics_fits_the_real_table(nsclc: pd.DataFrame):
    of = schema("nsclc_radiogenomics")
    cleaned = clean(nsclc, of)
    assert len(cleaned.rows) == 211
    unread = cleaned.exclusions["reason"].str.contains("unknown level|not a number|implausible")
    assert not unread.any()
    assert said(cleaned, "AMC-001", of) == (
        "Chest CT of a 34-year-old man. Smoking status: never smoker. "
        "Histology: Adenocarcinoma. Hospital: Stanford."
    )
    quit_year = cleaned.status["quit_year"].value_counts().to_dict()
    assert quit_year == {"present": 104, "not applicable": 81, "unknown": 22, "excluded": 4}


def aiib23(**cells: str) -> dict[str, str]:
    """A row with the columns that the paper's code names; the values are made up."""
    row = {
        "Mapping ID": "AIIB23_4.nii.gz",
        "DIAGNOSIS": "IPF",
        "label": "1",
        "AGE": "76",
        "SEX": "F",
        "TYPE CTD": "Not Available",
        "TYPE CTD OTHER": "",
        "SMOKING HISTORY": "Never smoker",
        "CTD DIAG DATE": "99999",
        "PACK-YEARS": "0",
        "SMOKING HISTORY STOP DATE": "99999",
        "RISK OCCUPATIONAL": "No",
        "RISK ENVIRONMENTAL": "Yes",
        "RISK PRECIPITINS": "No",
        "FAMILIAL PF AND/OR RARE VARIANT": "",
    }
    return row | cells


def test_aiib23_says_what_the_paper_said_but_for_the_outcome():
    of = schema("aiib23")
    former = aiib23(
        **{"Mapping ID": "AIIB23_9.nii.gz", "DIAGNOSIS": "CTD-ILD", "SEX": "M"},
        **{"TYPE CTD": "Scleroderma", "SMOKING HISTORY": "Ex-smoker", "PACK-YEARS": "30"},
        **{"CTD DIAG DATE": "-1200", "SMOKING HISTORY STOP DATE": "-3650", "label": "0"},
    )
    cleaned = clean(table_of(aiib23(), former), of)
    assert said(cleaned, "AIIB23_4", of) == (
        "Lung CT scan: DIAGNOSIS is IPF, Patient age: 76. Gender: Female. "
        "SMOKING HISTORY is Never smoker, No occupational exposure. "
        "Environmental risk factors present. RISK PRECIPITINS is No."
    )
    assert said(cleaned, "AIIB23_9", of) == (
        "Lung CT scan: DIAGNOSIS is CTD-ILD, Patient age: 76. Gender: Male. "
        "CTD diagnosis: Scleroderma. SMOKING HISTORY is Former smoker, "
        "CTD diagnosed 1200 days ago. PACK-YEARS is 30, Stopped smoking 3650 days ago. "
        "No occupational exposure. Environmental risk factors present. RISK PRECIPITINS is No."
    )
    assert cleaned.rows["alive_within_a_year"].tolist() == ["Alive", "Dead"]
    edited = edit_row(
        cleaned.rows.loc["AIIB23_9"].to_dict(), {"smoking": "Never smoker"}, of, cleaned.rows
    )
    assert not re.search("PACK-YEARS|Stopped smoking", sentence(edited, of))


@pytest.mark.parametrize(
    ("status", "level"),
    [
        ("Ex-smoker", "former smoker"),
        ("Never smoked", "never smoker"),
        ("Currently smokes", "current smoker"),
    ],
)
def test_osic_keeps_the_visit_nearest_to_the_scan(status: str, level: str):
    of = schema("osic")
    columns = {"Patient": "ID00007", "Age": "79", "Sex": "Male", "SmokingStatus": status}
    visits = [("-4", "2315", "58.25"), ("5", "2214", "55.71"), ("7", "2061", "51.86")]
    rows = ({**columns, "Weeks": w, "FVC": f, "Percent": p} for w, f, p in visits)
    cleaned = clean(table_of(*rows), of)
    assert said(cleaned, "ID00007", of) == (
        f"Chest CT of a 79-year-old man. Smoking status: {level}. "
        "Forced vital capacity: 2315 ml. Forced vital capacity: 58 % of the predicted."
    )
    assert len(cleaned.dropped) == 2
