"""What differs between the libraries that models come from: a small object beside the network, without weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from steadyclip.models.towers import Tower

Tokens = dict[str, Tensor]
"""Tokenised texts: ``input_ids`` and, where the checkpoint wants one, ``attention_mask``, both (M, L) integers."""


class Backend(ABC):
    """How to call, view, tokenise for and save the networks of one library. Immutable: copies of a model share it."""

    family: str

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Padded and truncated as the checkpoint wants it; on the CPU."""

    @abstractmethod
    def image(self, network: Any, images_BCHW: Tensor) -> Tensor:
        """(B, D) image features, not normalised."""

    @abstractmethod
    def text(self, network: Any, tokens: Tokens) -> Tensor:
        """(M, D) text features, not normalised."""

    @abstractmethod
    def embed_dim(self, network: Any) -> int:
        """D, the width of the features."""

    @abstractmethod
    def towers(self, network: Any) -> tuple[Tower, Tower]:
        """The views of the image and the text tower."""

    @abstractmethod
    def save(self, network: Any, folder: Path) -> None:
        """Write a plain checkpoint of the library: safetensors, JSON, tokenizer, image settings."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self
