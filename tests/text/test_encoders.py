"""Text encoders: the right weights, the same embedding everywhere, attributes that can be read."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

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


def test_a_hub_model_out_of_reach_tells_the_offline_way(monkeypatch: pytest.MonkeyPatch):
    def no_network(source: str) -> None:
        raise ConnectionError(f"cannot reach {source}")

    monkeypatch.setattr(encoders, "_ask_hub", no_network)
    with pytest.raises(DgmvlcError, match="cannot reach nobody/no-model") as caught:
        load_encoder("nobody/no-model")
    assert "hf download nobody/no-model" in caught.value.hint


def test_a_sentence_too_long_for_the_model_is_refused(minilm: Encoder):
    with pytest.raises(DgmvlcError, match="tokens"):
        minilm.encode(["word " * 600])


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
