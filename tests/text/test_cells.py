"""Numbers and dates as people write them."""

from __future__ import annotations

from datetime import date

import pytest

from dgmvlc_cli.text.cells import (
    are_dates,
    date_order,
    date_reader,
    is_missing_code,
    number_reader,
    parse_number,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("63", 63),
        ("1,234.5", 1234.5),
        ("27,3", 27.3),
        ("-1e2", -100),
        ("1.234,5", 1234.5),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("0,345", 0.345),
        ("-0,875", -0.875),
        ("30 pack-years", 30),
        ("30 Pack years", 30),
        ("063Y", None),
        ("1.2.3", None),
        ("twelve", None),
        ("inf", None),
        ("12/3", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: float | None):
    assert parse_number(text, "pack-years") == number


@pytest.mark.parametrize(
    "text",
    ["'--", "[Not Available]", "[Not Applicable]", "[Unknown]", "[not evaluated]", "<NA>", "#N/A",
     "#VALUE!", "#DIV/0!", "#REF!", "NK", "ND", "n.d.", "k.A.", "Refused", "not tested",
     "Not Specified", "-9999", "99,999"],
)  # fmt: skip
def test_what_programs_and_registries_write_for_missing_is_known(text: str):
    assert is_missing_code(text)
    assert not any(map(is_missing_code, ["[T1]", "#1", "<10", ">79", "+", "none", "0", "-9"]))


@pytest.mark.parametrize(
    ("column", "numbers"),
    [
        (["0,9", "0,875", "1,912"], [0.9, 0.875, 1.912]),
        (["2,34", "2,345"], [2.34, 2.345]),
        (["7.500", "7.500,5", "12.000"], [7500, 7500.5, 12000]),
        (["2,345", "12,000.5", "0.375"], [2345, 12000.5, 0.375]),
        (["7.500", "12.000", "63"], [7.5, 12, 63]),
        (["2,345", "-999.5", "3,9"], ["ambiguous", -999.5, 3.9]),
    ],
)
def test_a_mark_before_three_digits_is_read_as_the_other_numbers_decide(
    column: list[str], numbers: list[float | str]
):
    read = number_reader(column)
    assert [str(n).split(" ")[0] if isinstance(n := read(t), str) else n for t in column] == numbers


@pytest.mark.parametrize(
    ("unit", "text", "found"),
    [
        ("kg/m2", "27.3 kg/m2", 27.3),
        ("kg/m2", "27.3 kg/m²", 27.3),
        ("years", "063Y", 63),
        ("months", "18 mo", 18),
        ("months", "2 years", "in years, expected months"),
        ("l", "45 %", "in %, expected l"),
        ("kg", "75 plus", "not a number"),
        ("", "063Y", 63),
        ("", "45 %", 45),
        ("", "180 lbs", "in lbs, expected no unit"),
    ],
)
def test_a_number_in_another_unit_is_none(unit: str, text: str, found: float | str):
    assert number_reader([text, "12"], unit)(text) == found


def test_dates_in_three_formats_are_one_column_of_dates():
    texts = ["2020-03-04", "25/12/2019", "3/4/2020 10:30", "4 Mar 2020", "20200304", "N/A"]
    read = date_reader(texts)
    assert are_dates(texts)
    assert [read(text) for text in texts[:5]] == [
        date(2020, 3, 4),
        date(2019, 12, 25),
        date(2020, 4, 3),  # day first, as the date before it can only be
        date(2020, 3, 4),
        date(2020, 3, 4),
    ]


def test_month_comes_first_where_nothing_says_otherwise():
    assert date_reader(["3/4/2020"])("3/4/2020") == date(2020, 3, 4)


def test_dates_that_decide_nothing_are_read_as_the_others_of_the_table():
    decided, other, undecided = ["15/01/1940"], ["12/25/2019"], ["3/4/2020"]
    assert date_reader(undecided, date_order([decided, undecided]))("3/4/2020") == date(2020, 4, 3)
    for columns in ([undecided], [decided, other], [["25/12/2019", "12/25/2019"], undecided]):
        assert date_reader(undecided, date_order(columns))("3/4/2020") == date(2020, 3, 4)
    assert date_reader(other, date_order([decided]))("3/4/2020") == date(2020, 3, 4)


def test_a_column_that_contradicts_itself_has_no_guesses():
    read = date_reader(["25/12/2019", "12/25/2019", "3/4/2020"])
    assert read("12/25/2019") == read("25/12/2019") == date(2019, 12, 25)
    assert "ambiguous" in str(read("3/4/2020"))


@pytest.mark.parametrize("text", ["2020", "12345678", "30/02/2020", "1.2.3", "3/4/20", "soon"])
def test_what_is_no_date_is_none(text: str):
    assert not are_dates([text])
    assert "not a date" in str(date_reader([text])(text))
