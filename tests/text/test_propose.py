"""What a table's columns are proposed to mean."""

from __future__ import annotations

import re
import tomllib

import pandas as pd
import pytest
from text_helpers import cohort_table, table_of

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text.cleaning import clean
from dgmvlc_cli.text.describe import sentence
from dgmvlc_cli.text.propose import propose_schema
from dgmvlc_cli.text.schema import OWN_NAMES, Schema, schema_toml


def test_nsclc_needs_no_hand_edit(nsclc: pd.DataFrame):
    schema, notes = propose_schema(nsclc)
    known = {
        name: schema.attributes[name].column
        for name in ("age", "sex", "smoking", "pack_years", "quit_year", "histology")
    }
    assert schema.id_column == "Patient ID"
    assert known == {
        "age": "Age at Histological Diagnosis",
        "sex": "Gender",
        "smoking": "Smoking status",
        "pack_years": "Pack Years",
        "quit_year": "Quit Smoking Year",
        "histology": "Histology",
    }
    assert schema.attributes["smoking"].levels == (
        "never smoker",
        "former smoker",
        "current smoker",
    )
    assert schema.attributes["weight_lbs"].unit == "lbs"
    assert 6 < len(schema.names("condition", "covariate")) <= 12
    assert "N/A 103" in notes["Quit Smoking Year"]
    outcomes = set(schema.names("outcome"))
    assert {"recurrence", "survival_status", "date_of_death", "time_to_death_days"} <= outcomes
    assert schema.attributes["tumor_location_choice_unknown"].role == "ignore"


def test_nsclc_proposal_is_written_with_a_comment_per_column_and_reads_back(nsclc: pd.DataFrame):
    schema, notes = propose_schema(nsclc)
    assert set(notes) == set(nsclc.columns)
    text = schema_toml(schema, notes)
    assert Schema.model_validate(tomllib.loads(text)["schema"]) == schema
    assert text.count("\n# ") == len(nsclc.columns)


def test_a_phantom_table_is_understood():
    schema, notes = propose_schema(cohort_table(60))
    assert schema.id_column == "subject"
    assert schema.names("covariate") == ["age", "sex", "bmi"]
    assert schema.names("condition") == ["smoking", "pack_years", "quit_year", "diagnosis"]
    assert schema.names("ignore") == ["scan_date"]
    assert "absent: 99999 1" in notes["age"]
    assert schema.attributes["quit_year"].follows.absent_for == ("never smoker", "current smoker")


@pytest.mark.parametrize(
    ("texts", "levels"),
    [
        (("Ex-smoker", "Never smoked", "Currently smokes"), 3),
        (("NEVER", "past", "Non-Smoker"), 2),
        (("Current Smoker", "never smoker", "unknown"), 2),
    ],
)
def test_smoking_words_become_the_same_levels_everywhere(texts: tuple[str, ...], levels: int):
    rows = [{"Patient": f"p{i}", "SmokingStatus": texts[i % 3]} for i in range(9)]
    smoking = propose_schema(table_of(*rows))[0].attributes["smoking"]
    assert len(smoking.levels) == levels
    assert all(smoking.level(text) in {*smoking.levels, None} for text in texts)
    assert smoking.level(texts[1]) is not None


@pytest.mark.parametrize("end", ["", ".0"])
def test_few_whole_numbers_are_codes_and_not_quantities(end: str):
    rows = [
        {
            "id": f"p{i}",
            "Age": str(50 + i),
            "Smoking": f"{i % 3}{end}",
            "Center": str(101 + i % 11),
            "GOLD": f"{9 if i == 7 else i % 5}{end}",
            "Emphysema": f"{(0, 1, 9)[i % 9 // 3]}{end}",
            "COPD": f"{1 + i % 2}{end}",
            "Nodules (mm)": str(1 + i % 4),
            "FEV1": f"{1 + i % 4 / 2}",
            "Cigarettes per day": str(10 * (i % 4)),
        }
        for i in range(30)
    ]
    schema, notes = propose_schema(table_of(*rows))
    codes = {n: a.levels for n, a in schema.attributes.items() if a.kind == "category"}
    assert codes == {
        "smoking": ("0", "1", "2"),
        "center": tuple(str(101 + i) for i in range(11)),
        "gold": ("0", "1", "2", "3", "4"),
        "copd": ("1", "2"),
    }
    assert all("Codes, taken as levels" in notes[schema.attributes[n].column] for n in codes)
    assert schema.attributes["emphysema"].kind == "flag"
    assert f"Taken as missing: 9{end}." in notes["Emphysema"]
    cleaned = clean(table_of(*rows), schema).rows
    assert cleaned["smoking"].tolist()[:3] == ["0", "1", "2"]
    assert cleaned["emphysema"].tolist()[2:9:3] == ["no", "yes", None]
    assert cleaned["gold"].tolist()[6:8] == ["1", None]


def test_many_sites_written_as_numbers_are_not_adjusted_for_as_a_quantity():
    rows = [{"id": f"p{i}", "Site": str(i % 25), "mark": "ab"[i % 2]} for i in range(50)]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.attributes["site"].role == "ignore"
    assert "25 different codes" in notes["Site"]


@pytest.mark.parametrize(
    ("headers", "best"),
    [
        (("Age at menarche", "Age at diagnosis", "Age"), "Age"),
        (("Age group", "Age (months)", "Age at diagnosis"), "Age at diagnosis"),
        (("Age started smoking", "Gestational age"), None),
    ],
)
def test_the_best_of_several_ages_is_the_age(headers: tuple[str, ...], best: str | None):
    rows = [{"id": f"p{i}", **{h: str(i + j) for j, h in enumerate(headers)}} for i in range(20)]
    attributes = propose_schema(table_of(*rows))[0].attributes
    assert (attributes["age"].column if "age" in attributes else None) == best


def test_the_smoking_status_is_the_patients_own():
    rows = [
        {
            "id": f"p{i}",
            "Maternal smoking status": ("never", "current")[i % 2],
            "Smoking status at enrolment": ("never", "former", "current")[i % 3],
            "Smoking status": ("former", "never", "current")[i // 3 % 3],
        }
        for i in range(20)
    ]
    assert propose_schema(table_of(*rows))[0].attributes["smoking"].column == "Smoking status"


def test_an_age_in_groups_is_said_as_it_is_and_adjusted_for():
    rows = [{"id": f"p{i}", "Age": ("50-59", ">79")[i % 2], "sex": "fm"[i % 2]} for i in range(9)]
    schema, _ = propose_schema(table_of(*rows))
    cleaned = clean(table_of(*rows), schema)
    assert schema.attributes["age"].role == "covariate"
    assert sentence(cleaned.rows.loc["p0"].to_dict(), schema) == "Chest CT of a woman. Age: 50-59."


def test_typing_errors_do_not_switch_recognition_off_and_are_listed():
    texts = ("Never", "NEVER", "curent", "Current", "Former", "ex-smoker", "formr", "Current")
    rows = [{"id": f"p{i}", "Smoking": texts[i % 8]} for i in range(24)]
    schema, notes = propose_schema(table_of(*rows))
    assert len(schema.attributes["smoking"].levels) == 3
    assert "synonyms say which level they are: curent 3, formr 3." in notes["Smoking"]


def test_a_common_word_that_is_not_known_is_no_typing_error():
    rows = [{"id": f"p{i}", "Smoking": ("no", "former", "no", "current")[i % 4]} for i in range(24)]
    assert propose_schema(table_of(*rows))[0].attributes["smoking"].levels == (
        "current",
        "former",
        "no",
    )


def test_who_a_row_is_of_is_not_said_nor_copied():
    rows = [
        {
            "column 1": str(i),
            "Patient ID": f"P{i}",
            "MRN": str(4711000 + 37 * i),
            "Patient name": f"Doe {i // 2}",
            "Zip code": str(10115 + i % 3),
            "remark": f"note {i}",
            "Hospital ID": "AB"[i % 2],
            "score": str(20 + i),
        }
        for i in range(12)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.id_column == "Patient ID"
    assert schema.names() == ["hospital_id", "score"]
    assert "counts the rows" in notes["column 1"]
    assert "every text is different" in notes["remark"]
    assert not re.search("Doe|10115", schema_toml(schema, notes))


def test_serial_dates_of_a_spreadsheet_are_not_days():
    rows = [
        {
            "id": f"p{i}",
            "Smoking": ("never", "former", "current")[i % 3],
            "Smoking quit date": str(33400 + 100 * i) if i % 3 == 1 else "",
            "CT date": str(43500 + i),
            "Biopsy date": f"spring {i}",
        }
        for i in range(24)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.names() == ["smoking"]
    assert "serial dates" in notes["Smoking quit date"]
    assert "serial dates" in notes["CT date"]
    assert "not read as dates" in notes["Biopsy date"]


def test_the_date_of_the_scan_is_that_of_the_ct_even_where_a_few_are_not_read():
    rows = [
        {
            "id": f"p{i}",
            "Study entry date": f"2011-01-{i + 1:02d}",
            "PET image date": f"2012-01-{i + 1:02d}",
            "Study date": f"2013-01-{i + 1:02d}",
            "Follow-up CT date": f"2022-01-{i + 1:02d}",
            "CT Date": f"2014-01-{i + 1:02d}" if i else "31/02/2014",
            "Date of birth": f"1950-01-{i + 1:02d}",
        }
        for i in range(20)
    ]
    schema, _ = propose_schema(table_of(*rows))
    assert schema.scan_date == "CT Date"
    assert schema.names() == ["age", "follow_up_ct_date"]
    assert clean(table_of(*rows), schema).rows["age"].round(0).tolist()[1:] == [64.0] * 19


def test_plus_and_minus_are_yes_and_no_and_a_minus_alone_is_missing():
    rows = [
        {"id": f"p{i}", "Asthma": "+-"[i % 2], "Biopsy": ("-", "done", "open")[i % 3]}
        for i in range(9)
    ]
    schema, _ = propose_schema(table_of(*rows))
    cleaned = clean(table_of(*rows), schema).rows
    assert cleaned["asthma"].tolist()[:2] == ["yes", "no"]
    assert cleaned["biopsy"].tolist()[:3] == [None, "done", "open"]


def test_a_german_table_is_recognised():
    rows = [
        {
            "Patient": f"p{i}",
            "Alter": str(50 + i),
            "Geschlecht": "mw"[i % 2],
            "Raucherstatus": (status := ("nie", "ehemals", "aktuell")[i % 3]),
            "Packungsjahre": "0" if status == "nie" else str(i),
            "Überlebensstatus": ("lebt", "verstorben")[i % 2],
        }
        for i in range(12)
    ]
    schema, _ = propose_schema(table_of(*rows))
    assert schema.names() == ["age", "sex", "smoking", "pack_years", "uberlebensstatus"]
    assert schema.attributes["smoking"].levels[0] == "never smoker"
    assert schema.names("outcome") == ["uberlebensstatus"]


def test_a_header_with_braces_is_said_as_it_is():
    days = [f"-{i}" for i in range(9)]
    table = pd.DataFrame({"id": list("abcdefghi"), "Biopsy date {days}": days})
    schema, _ = propose_schema(table)
    said = sentence(clean(table, schema).rows.loc["c"].to_dict(), schema)
    assert said == "Chest CT of a patient. Biopsy {days}: 2 days before the scan."


def test_what_smoking_entails_follows_it_whatever_it_is_called():
    rows = [
        {
            "id": f"p{i}",
            "Smoking status": (status := ("never", "former", "current")[i % 3]),
            "Cigarettes per day": "0" if status == "never" else str(10 + i),
            "Age started smoking": "" if status == "never" else str(14 + i),
            "Years since quitting": str(i) if status == "former" and i > 3 else "",
            "Smoke at home": "" if i % 5 == 0 else str(i),
            "DLCO": "" if status == "never" else str(40 + i),
        }
        for i in range(30)
    ]
    attributes = propose_schema(table_of(*rows))[0].attributes
    follows = {name: a.follows.absent_for for name, a in attributes.items() if a.follows}
    assert follows == {
        "cigarettes_per_day": ("never smoker",),
        "age_started_smoking": ("never smoker",),
        "years_since_quitting": ("never smoker", "current smoker"),
    }


def test_what_repeats_the_smoking_status_is_ignored_with_the_reason():
    rows = [
        {
            "id": f"p{i}",
            "Smoking status": (status := ("never", "former", "current")[i % 3]),
            "smoke_code": str(("never", "former", "current").index(status)),
            "Ever smoked": "no" if status == "never" else "yes",
            "Smoking detail": status + (" long ago" if status == "former" and i % 2 else ""),
            "arm": "ABC"[i % 3] if i != 5 else "A",
            "Maternal smoking": ("yes", "no")[i % 2],
            "COPD": str(int(i % 7 < 3)),
            "rare": str(int(i == 4)),
            "Site": "XYZ"[i % 3],
        }
        for i in range(60)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.names() == ["smoking", "maternal_smoking", "copd", "rare", "site"]
    repeats = {header for header, note in notes.items() if "it repeats smoking" in note}
    assert repeats == {"smoke_code", "Ever smoked", "Smoking detail", "arm"}


def test_columns_that_say_nothing_are_ignored_with_the_reason():
    rows = [
        {
            "id": f"p{i}",
            "constant": "a",
            "mostly_missing": "x" if i == 3 else "y" if i == 4 else "",
            "free text": f"note {i % 15}",
            "sex": str(i % 2 + 1),
            "score": str(-1 if i == 5 else 10 + i),
            "lung_disease": str(i % 2),
        }
        for i in range(30)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert "one value only" in notes["constant"]
    assert "93% missing" in notes["mostly_missing"]
    assert "15 different texts" in notes["free text"]
    assert "codes" in notes["sex"]
    assert schema.names() == ["score", "lung_disease"]
    assert schema.attributes["score"].missing == ("-1",)
    assert schema.attributes["lung_disease"].level("1") == "yes"


def test_a_table_without_an_id_is_refused_with_its_columns():
    rows = [{"age": "60", "sex": "m"}, {"age": "60", "sex": "m"}]
    with pytest.raises(DgmvlcError, match="age, sex"):
        propose_schema(table_of(*rows))


def test_dates_of_the_history_enter_the_sentence_and_others_do_not():
    rows = [
        {
            "id": f"p{i}",
            "CT Date": f"2020-01-{i + 1:02d}",
            "Date of birth": f"1950-03-{i + 1:02d}",
            "CTD DIAG DATE": f"{i + 1}/13/2010" if i < 12 else "2011-05-01",
            "Follow-up diagnosis date": f"2022-01-{i + 1:02d}",
            "Symptom onset date": f"2020-06-{i + 1:02d}",
            "PET Date": f"2019-12-{i + 1:02d}",
            "Smoking": ("Never", "Ex-smoker", "Current")[i % 3],
            "Smoking stop date": f"2012-01-{i + 1:02d}" if i % 3 == 1 else "",
        }
        for i in range(20)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.scan_date == "CT Date"
    assert schema.names("condition", "covariate") == [
        "age",
        "smoking",
        "quit_date",
        "ctd_diag_date",
    ]
    assert schema.attributes["age"].kind == "date"
    assert schema.attributes["ctd_diag_date"].label == "ctd diag"
    assert schema.attributes["quit_date"].follows.absent_for == ("never smoker", "current smoker")
    assert schema.names("outcome") == ["follow_up_diagnosis_date"]
    assert "0% of the dates lie before the scan" in notes["Symptom onset date"]
    assert "says little" in notes["PET Date"]


def test_without_the_date_of_the_scan_no_date_enters_the_sentence():
    rows = [
        {
            "id": f"p{i}",
            "born": "x",
            "Date of birth": f"1950-03-0{i + 1}",
            "mark": "a" * (i % 2 + 1),
        }
        for i in range(9)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.scan_date is None
    assert schema.names() == ["mark"]
    assert "without the date of the scan" in notes["Date of birth"]


def test_several_rows_per_subject_are_said_with_the_rule_to_declare():
    rows = [{"Patient": f"p{i % 3}", "Weeks": str(i * 4), "FVC": str(2000 + i)} for i in range(9)]
    _, notes = propose_schema(table_of(*rows))
    assert "3 subjects with several rows" in notes["Patient"]
    assert 'several_rows = {keep = "nearest", by = "Weeks"}' in notes["Patient"]


def test_of_300_columns_the_sentence_takes_what_fits():
    rows = [
        {"id": f"p{i}", **{f"lab {j}": str((i * j) % 17) for j in range(299)}} for i in range(20)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert len(schema.names()) == 12
    assert len(schema.attributes) == 299
    assert "the sentence is full" in notes["lab 298"]


def test_the_boxes_of_one_question_are_said_together_or_not_at_all():
    boxes = {f"Location (choice={j})": "Checked" for j in range(8)}
    rows = [
        {
            "id": f"p{i}",
            **{f"lab {j}": str(i % (j + 2)) for j in range(1, 8)},
            **{box: ("Checked", "Unchecked")[(i >> j) % 2] for j, box in enumerate(boxes)},
            "last": ("a", "b")[i % 2],
        }
        for i in range(64)
    ]
    schema, _ = propose_schema(table_of(*rows))
    assert schema.names() == [*(f"lab_{j}" for j in range(1, 8)), "last"]


def test_days_written_under_a_date_are_durations_and_labels_are_outcomes():
    rows = [
        {
            "Mapping ID": f"s{i}",
            "label": str(i % 2),
            "SMOKING HISTORY": ("Never smoker", "Ex-smoker")[i % 2],
            "SMOKING HISTORY STOP DATE": str(-400 * i) if i % 2 else "99999",
            "CTD DIAG DATE": str(-300 * i),
            "VISIT DATE": str(90 * i),
        }
        for i in range(12)
    ]
    schema, notes = propose_schema(table_of(*rows))
    assert schema.id_column == "Mapping ID"
    assert schema.names("outcome") == ["label"]
    assert schema.names("condition") == ["smoking", "quit_days", "ctd_diag_date"]
    assert "before the scan or after it" in notes["VISIT DATE"]
    cleaned = clean(table_of(*rows), schema)
    said = sentence(cleaned.rows.loc["s3"].to_dict(), schema)
    assert "Quit smoking 1200 days before the scan." in said
    assert "Ctd diag: 900 days before the scan." in said


def test_columns_that_would_be_said_alike_are_numbered():
    smoking, statuses = ["never", "current"] * 2, ["never", "former", "never", "current"]
    table = pd.DataFrame(
        {
            "id": list("abcd"),
            "Smoking": smoking,
            "smoking status": statuses,
            "FEV1": ["1.5", "2.5", "3.5", "2.0"],
            "fev1": ["1.5", "2.4", "3.2", "2.1"],
        }
    )
    schema, notes = propose_schema(table)
    labels = [schema.attributes[name].label for name in schema.names("condition", "covariate")]
    assert labels == ["smoking status", "smoking status 2", "FEV1", "fev1 2"]
    assert "Said like fev1" in notes["fev1"]


def test_days_that_would_be_said_alike_stay_days_before_the_scan():
    days = ["-30", "-400", "-12", "-90"]
    table = pd.DataFrame({"id": list("abcd"), "CTD diag date": days, "Date CTD diag": days[::-1]})
    schema, _ = propose_schema(table)
    said = [schema.attributes[name].clause("natural") for name in schema.names("condition")]
    assert said == [
        "ctd diag: ... days before the scan.",
        "ctd diag 2: ... days before the scan.",
    ]


@pytest.mark.parametrize(
    "header",
    ["Survival.time", "deadstatus.event", "deathstat", "Relapsed", "Progressed", "OS_MONTHS",
     "PFS_MONTHS", "DAYS_TO_LAST_FOLLOWUP", "RECIST best response", "date_last_contact",
     "vital_status", "Überlebensstatus", "Tod", "Todesursache", "Rezidiv", "Décès", "Récidive",
     "Supervivencia", "Recaída", "Mortalità"],
)  # fmt: skip
def test_what_happens_after_the_scan_is_an_outcome_by_its_header(header: str):
    rows = [{"id": f"p{i}", header: str(i % 2), "mark": "ab"[i % 2]} for i in range(9)]
    schema, _ = propose_schema(table_of(*rows))
    assert [schema.attributes[name].column for name in schema.names("outcome")] == [header]


@pytest.mark.parametrize("values", [("0:LIVING", "1:DECEASED"), ("lebt", "verstorben")])
def test_what_happens_after_the_scan_is_an_outcome_by_its_values(values: tuple[str, str]):
    rows = [{"id": f"p{i}", "Status": values[i % 2]} for i in range(9)]
    assert propose_schema(table_of(*rows))[0].names() == ["status"]
    assert propose_schema(table_of(*rows))[0].names("outcome") == ["status"]


@pytest.mark.parametrize(
    "header",
    ["Vital capacity", "Vital signs", "Dead space", "Bronchodilator response", "Position", "Cost",
     "FVC response to bronchodilator", "Progressive fibrosis", "Prevented", "Studied lobe",
     "Mode of exposure", "Mortar exposure", "Progesterone", "Methods"],
)  # fmt: skip
def test_a_header_that_only_looks_like_an_outcome_is_none(header: str):
    rows = [{"id": f"p{i}", header: str(i % 2)} for i in range(9)]
    assert propose_schema(table_of(*rows))[0].names("outcome") == []


@pytest.mark.parametrize("header", ["Placebo 1", "Subject", "sentence"])
def test_no_attribute_takes_a_name_of_the_toolkits_own(header):
    rows = ({"id": f"s{i}", header: text} for i, text in enumerate(("a", "b") * 6))
    schema, _ = propose_schema(table_of(*rows))
    own = [name for name, one in schema.attributes.items() if one.column == header]
    assert own and not any(OWN_NAMES.fullmatch(name) for name in own)
