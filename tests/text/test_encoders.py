"""Text encoders: the right weights, the same embedding everywhere, attributes that can be read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from small_models import small_bert, small_clip, small_open_clip

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text import encoders
from dgmvlc_cli.text.encoders import ENCODERS, Encoder, encode_cached, load_encoder

SENTENCES = [
    "Chest CT of a 63-year-old woman. Smoking status: current smoker.",
    "Chest CT of a man.",
    "Chest CT of a 63-year-old woman. Smoking status: never smoker. Diagnosis: COPD. Bin: larch.",
]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_encoder("minilm")


def test_the_bundled_encoder_gives_unit_embeddings(minilm: Encoder):
    embeddings = minilm.encode(SENTENCES)
    assert embeddings.shape == (3, minilm.dim) == (3, 384)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert minilm.sha256 == ENCODERS["minilm"].sha256
    assert minilm.encode([]).shape == (0, 384)


def test_a_sentence_has_the_same_embedding_in_any_batch(minilm: Encoder):
    together = minilm.encode(SENTENCES * 12)
    alone = np.concatenate([minilm.encode([s]) for s in SENTENCES])
    assert np.abs(together - np.tile(alone, (12, 1))).max() < 1e-5


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "model"
    shutil.copytree(encoders.bundled_folder(ENCODERS["minilm"]), folder)
    with (folder / "model.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x55")
    monkeypatch.setattr(encoders, "bundled_folder", lambda _: folder)
    with pytest.raises(DgmvlcError, match="not the expected ones"):
        load_encoder("minilm")


def test_a_local_folder_loads_like_the_bundled_encoder(minilm: Encoder):
    local = load_encoder(str(encoders.bundled_folder(ENCODERS["minilm"])))
    assert np.array_equal(local.encode(SENTENCES), minilm.encode(SENTENCES))


def test_a_folder_without_a_whole_model_is_refused(tmp_path: Path):
    with pytest.raises(DgmvlcError, match="no text encoder can be loaded"):
        load_encoder(str(tmp_path))
    with pytest.raises(DgmvlcError, match=r"config\.json"):
        load_encoder(str(tmp_path))
    folder = small_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DgmvlcError, match=r"model\.safetensors"):
        load_encoder(str(folder))


def test_a_hub_model_out_of_reach_tells_the_offline_way(monkeypatch: pytest.MonkeyPatch):
    def no_network(source: str) -> None:
        raise ConnectionError(f"cannot reach {source}")

    monkeypatch.setattr(encoders, "ask_hub", no_network)
    with pytest.raises(DgmvlcError, match="cannot reach nobody/no-model") as caught:
        load_encoder("nobody/no-model")
    assert "hf download nobody/no-model" in caught.value.hint


def test_a_sentence_too_long_for_the_model_is_refused(minilm: Encoder):
    with pytest.raises(DgmvlcError, match="tokens"):
        minilm.encode(["word " * 600])


@pytest.fixture(scope="module", params=["bert", "cxr-bert", "clip", "open_clip", "biomed_clip"])
def local(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A small model of each kind, from a local folder."""
    folder = tmp_path_factory.mktemp("models") / request.param
    if request.param.endswith("_clip"):
        pytest.importorskip("open_clip")
        tower = small_bert(folder.parent / "tower") if request.param == "biomed_clip" else None
        return load_encoder(f"open_clip:{small_open_clip(folder, tower)}")
    if request.param == "clip":
        return load_encoder(str(small_clip(folder)))
    return load_encoder(str(small_bert(folder, request.param)))


SHORT = ["Chest CT of a man.", "Chest CT of a woman. Diagnosis: COPD.", "CT."]


def test_models_of_every_kind_give_unit_embeddings(local: Encoder):
    embeddings = local.encode(SHORT)
    assert embeddings.shape == (3, local.dim)
    assert embeddings.dtype == np.float32
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert np.allclose(local.encode(SHORT[2:])[0], embeddings[2], atol=1e-5)


def test_a_sentence_longer_than_the_model_reads_is_read_in_parts(local: Encoder):
    clauses = [f"Finding {i}: {word}." for i, word in enumerate(["none", "mild", "severe"] * 120)]
    assert local.lengths([" ".join(clauses)])[0] > local.max_tokens  # type: ignore[attr-defined]
    one = local.encode([" ".join(clauses)])
    assert one.shape == (1, local.dim)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    other = local.encode([" ".join([*clauses[:-1], "Finding 359: mild."])])
    assert not np.array_equal(other, one)  # the end is heard, too


def states_of(folder: Path, sentence: str, model_class: str) -> np.ndarray:
    """(T, E) token states of a sentence, as the library gives them."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(sentence, return_tensors="pt")
    model = getattr(transformers, model_class).from_pretrained(folder).eval()
    with torch.inference_mode():
        return model(**tokens).last_hidden_state[0].numpy()


def test_an_embedding_is_the_mean_of_the_token_states(minilm: Encoder):
    states = states_of(encoders.bundled_folder(ENCODERS["minilm"]), SENTENCES[0], "AutoModel")
    mean = states.mean(axis=0)
    assert np.allclose(minilm.encode(SENTENCES)[0], mean / np.linalg.norm(mean), atol=1e-5)


def test_a_clips_embedding_is_the_state_of_its_last_token(tmp_path: Path):
    folder = small_clip(tmp_path / "clip")
    last = states_of(folder, SHORT[0], "CLIPTextModel")[-1]
    expected = last / np.linalg.norm(last)
    assert np.allclose(load_encoder(str(folder)).encode(SHORT)[0], expected, atol=1e-5)


def test_a_bert_with_code_of_its_own_is_read_as_a_bert(tmp_path: Path):
    plain = load_encoder(str(small_bert(tmp_path / "plain")))
    own = load_encoder(str(small_bert(tmp_path / "own", "cxr-bert")))
    assert own.sha256 == plain.sha256
    assert np.array_equal(own.encode(SHORT), plain.encode(SHORT))


def test_an_open_clip_model_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    from dgmvlc_cli.text import open_clip_encoder

    monkeypatch.setattr(open_clip_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DgmvlcError) as caught:
        load_encoder("open_clip:some/model")
    assert "dgmvlc[open_clip]" in caught.value.hint


class Counting:
    """An encoder that counts what it is asked."""

    name, dim, sha256 = "counting", 2, "one"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        self.asked += sentences
        return np.array([[len(s), 1] for s in sentences], np.float32)


def test_the_cache_encodes_each_sentence_once_and_serves_one_encoder(tmp_path: Path):
    encoder, path = Counting(), tmp_path / "cache.npz"
    first = encode_cached(encoder, ["a", "bb", "a"], path)
    second = encode_cached(encoder, ["bb", "ccc"], path)
    assert first[:, 0].tolist() == [1, 2, 1]
    assert second[:, 0].tolist() == [2, 3]
    assert encoder.asked == ["a", "bb", "ccc"]
    encoder.sha256 = "two"
    encode_cached(encoder, ["a"], path)
    path.write_bytes(b"damaged")
    encode_cached(encoder, ["a"], path)
    assert encoder.asked == ["a", "bb", "ccc", "a", "a"]


def test_the_list_of_encoders_needs_no_torch():
    code = (
        "import sys; from dgmvlc_cli.text.encoders import ENCODERS; print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
