"""Numbers and dates as people write them."""

from __future__ import annotations

from datetime import date

import pytest

from dgmvlc_cli.text.cells import are_dates, date_reader, parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("63", 63),
        ("063Y", 63),
        ("1,234.5", 1234.5),
        ("27,3", 27.3),
        ("45 %", 45),
        ("-1e2", -100),
        ("1.234,5", 1234.5),
        ("1,234,567", 1234567),
        ("30 pack-years", 30),
        ("1.2.3", None),
        ("twelve", None),
        ("inf", None),
        ("12/3", None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, number: float | None):
    assert parse_number(text, "pack-years") == number


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


def test_a_column_that_contradicts_itself_has_no_guesses():
    read = date_reader(["25/12/2019", "12/25/2019", "3/4/2020"])
    assert read("12/25/2019") == read("25/12/2019") == date(2019, 12, 25)
    assert "ambiguous" in str(read("3/4/2020"))


@pytest.mark.parametrize("text", ["2020", "12345678", "30/02/2020", "1.2.3", "3/4/20", "soon"])
def test_what_is_no_date_is_none(text: str):
    assert not are_dates([text])
    assert "not a date" in str(date_reader([text])(text))
