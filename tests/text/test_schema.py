"""The `[schema]` part of dgmvlc.toml: what it accepts, refuses, and how it is written."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError
from text_helpers import smoking_schema

from dgmvlc_cli.errors import UsageError
from dgmvlc_cli.text.schema import Attribute, Schema, SeveralRows, schema_toml


def test_a_schema_written_as_toml_reads_back_the_same():
    odd = Attribute(
        column='a "b"\\c \x7f \u2028 é 😀',
        kind="category",
        levels=("x\ty", "z"),
        synonyms={"x y.z": "z"},
        template="It is {value}.",
    )
    attributes = {**smoking_schema().attributes, "odd": odd}
    schema = Schema(
        id_column="sub ject",
        scan_date="CT Date",
        several_rows=SeveralRows(keep="nearest", by="Weeks"),
        wording="paper",
        attributes=attributes,
    )
    text = schema_toml(schema, {"sub ject": "ids\x00", odd.column: "two\nlines"})
    assert Schema.model_validate(tomllib.loads(text)["schema"]) == schema
    assert "# two\n# lines\n[schema.attributes.odd]" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": []}, "needs levels"),
        ({"synonyms": {"x": "y"}}, "not among the levels"),
        ({"template": "Smoker."}, "must contain {value}"),
        ({"template": "{value.__class__}"}, "unknown field"),
        ({"template": "{value:.2}"}, "set `decimals`"),
        ({"template": "{value!r}"}, "set `decimals`"),
        ({"decimals": -1}, "greater than or equal to 0"),
        ({"plausible": [3, 1]}, "lower bound"),
        ({"plausible": [float("nan"), 1]}, "lower bound"),
        ({"kind": "date", "unit": "fortnights"}, "none of a duration"),
        ({"levles": []}, "extra"),
        ({"role": "outcom"}, "outcome"),
    ],
)
def test_an_inconsistent_attribute_is_refused(change: dict, message: str):
    good = {"column": "c", "kind": "category", "levels": ["a", "b"]}
    with pytest.raises(ValidationError, match=message):
        Attribute.model_validate(good | change)


def test_codes_need_no_quotes():
    code = {"column": "s", "kind": "category", "levels": [0, 1, 2], "missing": [9]}
    read = Attribute.model_validate(code)
    assert read.levels == ("0", "1", "2") and read.missing == ("9",)


@pytest.mark.parametrize(
    ("follows", "message"),
    [
        ({"attribute": "smok", "absent_for": []}, "no attribute with levels"),
        ({"attribute": "smoking", "absent_for": ["none"]}, "no levels of smoking"),
    ],
)
def test_a_bundle_rule_must_name_what_exists(follows: dict, message: str):
    content = smoking_schema().model_dump()
    content["attributes"]["pack_years"]["follows"] = follows
    with pytest.raises(ValidationError, match=message):
        Schema.model_validate(content)


def test_an_unknown_attribute_names_the_nearest_and_the_legal_ones():
    with pytest.raises(UsageError) as caught:
        smoking_schema().attribute("smokin")
    assert 'Did you mean "smoking"?' in caught.value.message
    assert "smoking, pack_years" in caught.value.hint


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"label": "smoking status"}, {"label": "Smoking  status"}),
        ({"label": ""}, {"label": "a"}),
        ({"template": "{value}-year-old."}, {"template": "{value}-year-old.", "label": "x"}),
    ],
)
def test_two_attributes_that_would_be_said_alike_are_refused(one: dict, other: dict):
    def schema(**more: str) -> Schema:
        return Schema.model_validate(
            {
                "id_column": "id",
                "attributes": {
                    "a": {"column": "a", "kind": "number", **one},
                    "b": {"column": "b", "kind": "number", **other, **more},
                },
            }
        )

    with pytest.raises(ValidationError, match="a and b would be said alike"):
        schema()
    schema(role="ignore")


def test_the_wording_of_the_paper_tells_columns_apart_by_their_headers():
    def schema(other: str) -> Schema:
        one = {"column": "FVC", "kind": "number", "label": "vital capacity"}
        both = {"a": one, "b": {**one, "column": other}}
        return Schema.model_validate({"id_column": "id", "wording": "paper", "attributes": both})

    assert schema("FVC 2").names() == ["a", "b"]
    with pytest.raises(ValidationError, match="a and b would be said alike"):
        schema("FVC")
