import numpy as np
import pandas as pd
import pytest

from dgmvlc_cli.text.describe import prompts_table, sentence
from dgmvlc_cli.text.edits import edit_row
from dgmvlc_cli.text.encoders import load_encoder
from dgmvlc_cli.text.placebos import add_placebos, make_placebos
from dgmvlc_cli.text.projection import (
    Practice,
    Projection,
    encode_rows,
    fit_projection,
    practice_rows,
    practise,
)
from dgmvlc_cli.text.schema import Attribute, Follows, Schema

SMOKING = ("never smoker", "former smoker", "current smoker")


def schema() -> Schema:
    return Schema(
        id_column="subject",
        attributes={
            "age": Attribute(column="age", kind="number", role="covariate"),
            "sex": Attribute(column="sex", kind="category", levels=("female", "male")),
            "smoking": Attribute(
                column="s", kind="category", label="Smoking status", levels=SMOKING
            ),
            "pack_years": Attribute(
                column="p",
                kind="number",
                label="Smoking history",
                unit="pack-years",
                follows=Follows(attribute="smoking", absent_for=("never smoker",)),
            ),
        },
    )


def cohort(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    smoking = rng.choice(SMOKING, n)
    pack_years = np.where(smoking == "never smoker", np.nan, rng.uniform(5, 60, n).round())
    table = {"age": rng.uniform(40, 80, n).round(), "sex": rng.choice(["female", "male"], n)}
    table |= {"smoking": smoking, "pack_years": pack_years}
    return pd.DataFrame(table, index=[f"s{i}" for i in range(n)])


def r2(said: np.ndarray, read: np.ndarray) -> float:
    """Squared correlation: the reading has a scale of its own."""
    return float(np.corrcoef(said, read)[0, 1] ** 2)


@pytest.fixture(scope="module")
def reading(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Schema, pd.DataFrame, Projection]:
    rows = cohort(96)
    placebos, records = make_placebos(rows["smoking"], 2, seed=0)
    said, rows = add_placebos(schema(), records, "smoking"), rows.join(placebos)
    encoder = load_encoder()
    learned = practise(rows, said, encoder, 0, tmp_path_factory.mktemp("practice") / "cache.npz")
    training = encoder.encode(list(prompts_table(rows, said)["sentence"]))
    return said, rows, fit_projection(learned, training)


def test_every_attribute_of_real_sentences_is_read(reading):
    said, rows, projection = reading
    codes = encode_rows(rows.to_dict("records"), said, rows)
    read = projection(load_encoder().encode(list(prompts_table(rows, said)["sentence"])))
    assert read.shape == codes.shape
    assert read.std(axis=0) == pytest.approx(1, rel=1e-3)
    names = ["age?", "age", "female", "male", *SMOKING, "pack-years?", "pack-years"]
    found = {name: r2(codes[:, j], read[:, j]) for j, name in enumerate(names) if name != "age?"}
    assert found.pop("pack-years") > 0.5  # numbers are read less well than words
    assert min(found.values()) > 0.8, found


def test_an_edit_moves_the_reading_of_its_attribute_and_hardly_another(reading):
    said, rows, projection = reading
    subjects = rows.index[rows["smoking"] == "current smoker"][:10]

    def arm(level: str) -> list[str]:
        edited = (edit_row(dict(rows.loc[one]), {"smoking": level}, said, rows) for one in subjects)
        return [sentence(row, said) for row in edited]

    arms = [arm("never smoker"), arm("current smoker")]  # fmt: skip
    encoder = load_encoder()
    change = (projection(encoder.encode(arms[1])) - projection(encoder.encode(arms[0]))).mean(
        axis=0
    )
    current = 4 + SMOKING.index("current smoker")
    assert change[current] > 1.5
    assert np.abs(change[[1, 2, 3]]).max() < 0.3 * change[current]  # age and sex stay


def test_practice_rows_recombine_what_the_cohort_says():
    rows = cohort(40)
    made = practice_rows(rows, schema(), seed=1, count=400)
    assert made == practice_rows(rows, schema(), seed=1, count=400)
    assert made != practice_rows(rows, schema(), seed=2, count=400)
    assert {row["smoking"] for row in made} == {*SMOKING, None}
    assert all(row["pack_years"] is None for row in made if row["smoking"] == "never smoker")
    assert any(row["pack_years"] is not None for row in made)


def test_codes_tell_levels_presence_and_size():
    rows = cohort(40)
    row = {"age": float(rows["age"].mean()), "sex": "male", "smoking": None, "pack_years": None}
    assert encode_rows([row], schema(), rows)[0] == pytest.approx([1, 0, 0, 1, 0, 0, 0, 0, 0])


def test_a_number_that_one_subject_has_is_told_without_a_scale():
    rows = cohort(40)
    rows["pack_years"] = [30.0, *[None] * 39]
    made = encode_rows(rows.to_dict("records"), schema(), rows)
    assert np.isfinite(made).all() and np.abs(made).max() < 10


def test_a_code_that_does_not_vary_in_training_is_silenced():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(60, 4))
    practice = Practice(embeddings=embeddings, codes=embeddings[:, :2])
    training = rng.normal(size=(20, 4))
    training[:, 1] = 0.5
    projection = fit_projection(practice, training)
    assert projection(training).std(axis=0) == pytest.approx([1, 0], abs=1e-3)
