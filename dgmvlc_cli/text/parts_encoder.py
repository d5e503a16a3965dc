"""What every encoder does alike: batches, and sentences longer than the model reads."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from dgmvlc_cli.errors import DgmvlcError

BATCH_SIZE = 32


class PartsEncoder(ABC):
    """A model that reads a limited number of tokens, made to read any sentence of short clauses.

    A sentence that is too long (the text tower of a CLIP reads 77 tokens) is cut at the ends of
    its clauses; its embedding is the mean of its parts' at unit length.
    """

    name: str
    dim: int
    sha256: str
    max_tokens: int

    @abstractmethod
    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has for the model, special tokens included."""

    @abstractmethod
    def forward(self, texts: list[str]) -> np.ndarray:
        """(B, dim) float32 of unit length, of one batch of texts that the model reads whole."""

    def encode(self, sentences: Sequence[str]) -> np.ndarray:
        """(n, dim) float32.  Raises DgmvlcError for a clause longer than the model reads."""
        parts = self._parts(sentences)
        texts = [text for of_one in parts for text in of_one]
        if not texts:
            return np.zeros((0, self.dim), np.float32)
        batches = range(0, len(texts), BATCH_SIZE)
        pooled = np.concatenate([self.forward(texts[i : i + BATCH_SIZE]) for i in batches])
        if len(texts) == len(parts):
            return pooled
        ends = np.cumsum([len(of_one) for of_one in parts])
        means = np.stack([rows.mean(axis=0) for rows in np.split(pooled, ends[:-1])])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def _parts(self, sentences: Sequence[str]) -> list[list[str]]:
        """Each sentence whole, or cut at the ends of its clauses."""
        whole = self.lengths(sentences) if sentences else []
        return [
            [sentence] if length <= self.max_tokens else self._cut(sentence)
            for sentence, length in zip(sentences, whole, strict=True)
        ]

    def _cut(self, sentence: str) -> list[str]:
        clauses = sentence.replace(". ", ".\n").split("\n")
        lengths = self.lengths(clauses)
        longest = int(np.argmax(lengths))
        if lengths[longest] > self.max_tokens:
            raise DgmvlcError(
                f"a clause has {lengths[longest]} tokens, and {self.name} reads "
                f'{self.max_tokens}: "{clauses[longest][:80]}..."',
                'Set role = "ignore" for attributes of long texts in dgmvlc.toml.',
            )
        parts = [clauses[0]]
        for clause in clauses[1:]:
            longer = f"{parts[-1]} {clause}"
            if self.lengths([longer])[0] <= self.max_tokens:
                parts[-1] = longer
            else:
                parts.append(clause)
        return parts


def weights_sha256(model: Any) -> str:
    """One hash over all weights by name."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()
