import pytest

from dgmvlc_cli.config import PRESETS, load_settings, override, parse_settings, settings_toml
from dgmvlc_cli.errors import DgmvlcError, UsageError

MINIMAL = {"scans": {"path": "scans"}}


def test_what_is_left_out_takes_its_default():
    settings = parse_settings(MINIMAL, "x")
    assert settings.train.folds == 2
    assert settings.working_spacing_mm == PRESETS["tiny"].spacing_mm


def test_native_spacing_keeps_the_scans_grid():
    settings = parse_settings({"scans": {"path": "scans", "spacing_mm": "native"}}, "x")
    assert settings.working_spacing_mm is None


@pytest.mark.parametrize(
    ("content", "key", "near"),
    [
        ({**MINIMAL, "trian": {}}, "trian", "train"),
        ({**MINIMAL, "train": {"fold": 2}}, "train.fold", "folds"),
        ({"scans": {"path": "s", "margin": 2}}, "scans.margin", "margin_mm"),
        (
            {
                **MINIMAL,
                "schema": {
                    "id_column": "id",
                    "attributes": {"age": {"colum": "age", "kind": "number"}},
                },
            },
            "schema.attributes.age.colum",
            "column",
        ),
    ],
)  # fmt: skip
def test_a_misspelt_key_is_named_with_the_nearest_known(content, key, near):
    with pytest.raises(UsageError) as caught:
        parse_settings(content, "dgmvlc.toml")
    assert f"`{key}`" in caught.value.message
    assert f"`{near}`" in caught.value.hint
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "role"), [("subject", "condition"), ("placebo_1", "covariate"), ("x", "placebo")]
)
def test_names_and_roles_of_the_toolkits_own_are_refused(name, role):
    attribute = {"column": "c", "kind": "number", "role": role}
    schema = {"id_column": "id", "attributes": {name: attribute}}
    with pytest.raises(UsageError, match="the toolkit's own"):
        parse_settings({**MINIMAL, "schema": schema}, "x")


def test_a_level_that_is_a_number_stays_as_it_was_written():
    settings = parse_settings({**MINIMAL, "study": {"reference": 0, "target": 2}}, "x")
    assert (settings.study.reference, settings.study.target) == (0, 2)
    assert str(settings.study.reference) == "0"


def test_a_value_out_of_range_is_named():
    with pytest.raises(UsageError, match=r"train\.folds.*got 1"):
        parse_settings({**MINIMAL, "train": {"folds": 1}}, "x")


def test_a_missing_section_is_named():
    with pytest.raises(UsageError, match="`scans` is missing"):
        parse_settings({}, "x")


def test_the_command_line_wins_and_is_checked():
    settings = parse_settings({**MINIMAL, "seed": 3}, "x")
    changed = override(settings, {"": {"seed": None}, "train": {"folds": 4, "steps": None}})
    assert (changed.seed, changed.train.folds) == (3, 4)
    with pytest.raises(UsageError, match="the command line"):
        override(settings, {"train": {"preset": "huge"}})


def test_a_folder_without_settings_says_what_to_run(tmp_path):
    with pytest.raises(DgmvlcError) as caught:
        load_settings(tmp_path / "dgmvlc.toml")
    assert "dgmvlc init" in caught.value.hint


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "dgmvlc.toml"
    path.write_text("[scans\n")
    with pytest.raises(UsageError, match="not valid TOML"):
        load_settings(path)


def test_settings_cannot_be_changed():
    settings = parse_settings(MINIMAL, "x")
    with pytest.raises(Exception, match="frozen"):
        settings.seed = 4


@pytest.mark.parametrize("library", ["", "open_clip:"])
def test_a_text_encoders_folder_is_found_from_the_settings_file(tmp_path, library):
    (tmp_path / "models" / "bert").mkdir(parents=True)
    (tmp_path / "minilm").mkdir()
    settings = tmp_path / "dgmvlc.toml"

    def encoder(name):
        settings.write_text(f'[scans]\npath = "s"\n[study]\ntext_encoder = "{library}{name}"\n')
        return load_settings(settings).study.text_encoder

    assert encoder("models/bert") == f"{library}{tmp_path / 'models' / 'bert'}"
    assert encoder("some/hub-model") == f"{library}some/hub-model"
    if not library:
        assert encoder("minilm") == "minilm"


def test_settings_written_by_the_toolkit_read_back_the_same(tmp_path):
    smoking = {"column": "Smoking", "kind": "category", "levels": ["never", 'ex "former"']}
    content = {
        **MINIMAL,
        "seed": 3,
        "scans": {
            **MINIMAL["scans"],
            "mask_labels": {"lung": [1, 2], "right_upper_lobe": [3]},
            "choose": {'a "b"': "1.2"},
        },
        "table": {"path": "a b.csv"},
        "study": {"attribute": "smoking", "reference": "never"},
        "train": {"folds": 4},
        "analyze": {"covariates": ["age", "sex"]},
        "schema": {"id_column": "id", "attributes": {"smoking": smoking}},
    }
    settings = parse_settings(content, "x")
    path = tmp_path / "dgmvlc.toml"
    path.write_text(settings_toml(settings))
    assert load_settings(path) == settings


def test_the_papers_preset_asks_for_its_model_in_one_short_line():
    with pytest.raises(UsageError, match='model must be "diffusion"') as raised:
        parse_settings({**MINIMAL, "train": {"preset": "paper"}}, "x")
    assert len(raised.value.message) < 100
    settings = parse_settings({**MINIMAL, "train": {"preset": "paper", "model": "diffusion"}}, "x")
    assert settings.preset.wavelet_levels == 0


def test_a_sampler_is_a_diffusions_alone_which_has_one_where_none_is_chosen():
    content = {**MINIMAL, "counterfactual": {"sampler": "ddpm"}}
    with pytest.raises(UsageError, match=r'^x: sampler = "ddpm" .* is "flow"') as raised:
        parse_settings(content, "x")
    assert len(raised.value.message) < 120
    diffusion = {"train": {"model": "diffusion"}}
    assert parse_settings({**content, **diffusion}, "x").sampler == "ddpm"
    assert parse_settings({**MINIMAL, **diffusion}, "x").sampler == "dpm-solver"
    assert parse_settings(MINIMAL, "x").sampler is None


@pytest.mark.parametrize(
    ("scans", "said"),
    [
        ({"mask_labels": {"right_uper_lobe": [1]}}, "`scans.mask_labels.right_uper_lobe` in"),
        ({"spacing_mm": 0}, "`scans.spacing_mm` in"),
    ],
)
def test_a_value_of_several_types_is_named_by_its_key_alone(scans, said):
    with pytest.raises(UsageError) as caught:
        parse_settings({"scans": {"path": "scans", **scans}}, source="the test")
    assert said in caught.value.message
