"""Text towers of the `open_clip` library, such as BiomedCLIP's; installed as an extra."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dgmvlc_cli.config import OPEN_CLIP
from dgmvlc_cli.errors import DgmvlcError
from dgmvlc_cli.text import encoders
from dgmvlc_cli.text.encoders import first_line, unreachable
from dgmvlc_cli.text.parts_encoder import PartsEncoder, weights_sha256

# Longer than any sentence: open_clip's tokenizers cut silently at the length they are told.
UNCUT = 4096


class OpenClipEncoder(PartsEncoder):
    """The text tower of an open_clip model and its projection into the space of the images.

    name: `open_clip:` and a folder with open_clip_config.json, or a hub id.
    Raises DgmvlcError if the library is absent or the model cannot be had.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._tokenizer, self._tower = _load(name.removeprefix(OPEN_CLIP))
        self.sha256 = weights_sha256(self._tower)
        self.max_tokens = int(self._tokenizer.context_length)
        self.dim = self.forward(["Chest CT."]).shape[1]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        ids = self._tokenizer(list(texts), context_length=UNCUT).numpy()
        return [int(n) for n in self._is_token(ids).sum(axis=1)]

    def forward(self, texts: list[str]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            pooled = self._tower(self._tokenizer(texts))
            unit = torch.nn.functional.normalize(pooled, dim=-1)
        return np.asarray(unit.float().numpy())

    def _is_token(self, ids: np.ndarray) -> np.ndarray:
        """Up to the last id that is no padding: the padding's own id may occur in a text."""
        padding = getattr(self._tower, "pad_id", None)
        if padding is None:
            padding = self._tower.config.pad_token_id
        later = np.flip(np.maximum.accumulate(np.flip(ids != padding, axis=1), axis=1), axis=1)
        return np.asarray(later, dtype=bool)


def _load(source: str) -> tuple[Any, Any]:
    """Tokenizer and text tower in evaluation mode."""
    if importlib.util.find_spec("open_clip") is None:
        raise DgmvlcError(
            f"{OPEN_CLIP}{source} needs the package open_clip_torch, which is not installed",
            'Run `pip install "dgmvlc[open_clip]"`.',
        )
    import open_clip

    local = Path(source).is_dir()
    model_name = f"local-dir:{source}" if local else f"hf-hub:{source}"
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        if not local:
            encoders.ask_hub(source)
        model = open_clip.create_model(
            model_name, force_custom_text=True, require_pretrained=True, pretrained_text=False
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # whatever a damaged folder or an unreachable hub makes it raise
        if not local:
            raise unreachable(source, error) from error
        raise DgmvlcError(
            f"no open_clip model can be loaded from the folder {source}: {first_line(error)}",
            "It must hold open_clip_config.json, the weights, and the tokenizer's files; a text "
            "model that it names (hf_model_name) must be a folder too where there is no network.",
        ) from error
    finally:
        logging.disable(level)
    return tokenizer, model.text.eval()
