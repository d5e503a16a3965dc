"""Text encoders of the `transformers` library: BERT and its kin, and the text towers of CLIPs."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text import encoders
from dgmvlc_cli.text.encoders import first_line, unreachable
from dgmvlc_cli.text.parts_encoder import PartsEncoder, weights_sha256

# Kind of model -> the class that reads text; other kinds are read by AutoModel.
TEXT_TOWERS = {
    "clip": "CLIPTextModel",
    "clip_text_model": "CLIPTextModel",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
}
# Kinds that are a BERT with code of their own in the folder, which we do not run.
BERTS = frozenset({"cxr-bert"})


class TransformerEncoder(PartsEncoder):
    """A `transformers` model; at unit length its token states averaged, or a CLIP's own embedding.

    source: folder or hub id.  Only weights and configuration are read, no code of the model's.
    """

    def __init__(self, name: str, source: str, sha256: str | None = None) -> None:
        self.name = name
        self._tokenizer, self._model = _load(source)
        self._pools = type(self._model).__name__ in ("CLIPTextModel", "SiglipTextModel")
        self.dim = int(self._model.config.hidden_size)
        self.sha256 = sha256 or weights_sha256(self._model)
        self.max_tokens = min(
            self._tokenizer.model_max_length,
            getattr(self._model.config, "max_position_embeddings", 512),
        )

    def lengths(self, texts: Sequence[str]) -> list[int]:
        tokens = self._tokenizer(list(texts), verbose=False)
        return [len(one) for one in tokens["input_ids"]]

    def forward(self, texts: list[str]) -> np.ndarray:
        import torch

        tokens = self._tokenizer(texts, padding=True, return_tensors="pt", verbose=False)
        with torch.inference_mode():
            out = self._model(**tokens)
            states = out.last_hidden_state  # (B, L, dim)
            mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)  # (B, L, 1)
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
            pooled = out.pooler_output if self._pools else mean
            unit = torch.nn.functional.normalize(pooled, dim=-1)
        return np.asarray(unit.float().numpy())


def _load(source: str) -> tuple[Any, Any]:
    """Tokenizer and model in evaluation mode; what lies on this machine is tried first."""
    with _quiet():
        try:
            return _from_pretrained(source, local_files_only=True)
        except Exception as error:  # whatever a damaged or foreign folder makes the library raise
            if Path(source).is_dir():
                raise DgmvlcError(
                    f"no text encoder can be loaded from the folder {source}: {first_line(error)}",
                    "It must hold config.json, the tokenizer's files and model.safetensors.",
                ) from error
        try:
            encoders.ask_hub(source)
            return _from_pretrained(source, local_files_only=False)
        except Exception as error:  # each transport beneath the hub client raises its own kind
            raise unreachable(source, error) from error


def _from_pretrained(source: str, *, local_files_only: bool) -> tuple[Any, Any]:
    import transformers

    kind = _kind(source, local_files_only)
    where: dict[str, Any] = {"local_files_only": local_files_only}
    tokenizer_class, model_class = "AutoTokenizer", TEXT_TOWERS.get(kind, "AutoModel")
    options: dict[str, Any] = {}
    if kind in BERTS:
        tokenizer_class, model_class = "BertTokenizerFast", "BertModel"
        options = {"config": transformers.BertConfig.from_pretrained(source, **where)}
    tokenizer = getattr(transformers, tokenizer_class).from_pretrained(source, **where)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model, info = getattr(transformers, model_class).from_pretrained(
        source, output_loading_info=True, **where, **options
    )
    # The library fills absent weights at random; only the pooler, which we do not use, may be.
    if absent := sorted(key for key in info["missing_keys"] if not key.startswith("pooler")):
        raise ValueError(f"{len(absent)} weights are absent, such as {absent[0]}")
    return tokenizer, model.eval()


def _kind(source: str, local_files_only: bool) -> str:
    """The model's kind, as its config.json names it; an unknown one too."""
    from transformers.utils import cached_file

    path = cached_file(source, "config.json", local_files_only=local_files_only)
    if path is None:
        raise ValueError("there is no config.json")
    return str(json.loads(Path(path).read_text(encoding="utf-8")).get("model_type", ""))


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
