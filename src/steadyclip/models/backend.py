"""What differs between the libraries that models come from: a small object beside the network, without weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steadyclip.models.towers import Layout, Tower

Tokens = dict[str, Tensor]
"""Tokenized texts: ``input_ids`` and, where the checkpoint wants one, ``attention_mask``, both (M, L) integers. Where
learned tokens will take the place of a text's first words, ``slots`` (M,) says of how many."""


class Backend(ABC):
    """How to call, view, tokenize for and save the networks of one library. Immutable: copies of a model share it."""

    family: str
    image_parts: tuple[str, ...]
    """Names of the network's submodules that only images go through; the rest, but for scale and bias, is for texts."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        """Padded and truncated as the checkpoint wants it, or to another length than its ``context``; on the CPU."""

    @abstractmethod
    def image(self, network: Any, images_BCHW: Tensor, patches: bool) -> dict[str, Tensor]:
        """ "feature" (B, D), not normalized, and "patches" (B, Y, X, D) in the same space, if asked for."""

    @abstractmethod
    def text(self, network: Any, tokens: Tokens) -> Tensor:
        """(M, D) text features, not normalized."""

    @abstractmethod
    def embed_dim(self, network: Any) -> int:
        """D, the width of the features."""

    @abstractmethod
    def towers(self, network: Any) -> tuple[Tower, Tower]:
        """The views of the image and the text tower."""

    @abstractmethod
    def image_layout(self, network: Any, images_BCHW: Tensor) -> Layout:
        """What the tokens of the image tower are."""

    @abstractmethod
    def text_layout(self, network: Any, tokens: Tokens) -> Layout:
        """What the tokens of the text tower are."""

    @abstractmethod
    def save(self, network: Any, folder: Path) -> None:
        """Write a plain checkpoint of the library: safetensors, JSON, tokenizer, image settings."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self


def patches(images_BCHW: Tensor, length: int, *, summary: bool) -> Layout:
    """The layout of an image tower of ``length`` tokens; ``summary``: its feature is read from the first of them."""
    batch, device = len(images_BCHW), images_BCHW.device
    valid_BN = torch.ones(batch, length, dtype=torch.bool, device=device)
    summary_B = torch.zeros(batch, dtype=torch.long, device=device) if summary else None
    return Layout(valid_BN, summary_B, causal=False)


def words(ids_BL: Tensor, *, summary_B: Tensor, pad: int | None, causal: bool) -> Layout:
    """The layout of a text tower that pools at ``summary_B``.

    Valid is what is not ``pad``, and the summary token even if it is one; without ``pad`` all up to the summary token.
    """
    positions_N = torch.arange(ids_BL.shape[1], device=ids_BL.device)
    if pad is None:
        valid_BN = positions_N <= summary_B[:, None]
    else:
        valid_BN = (ids_BL != pad) | (positions_N == summary_B[:, None])
    return Layout(valid_BN, summary_B, causal)
