"""One view over the models of every library: their transformer blocks, and what a library must provide for it."""

from __future__ import annotations

import dataclasses
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from steadyclip.core.errors import ModelError

Side = Literal["image", "text"]

Tokens = dict[str, Tensor]
"""Tokenized texts: ``input_ids`` and, where the checkpoint wants one, ``attention_mask``, both (M, L) integers. If
learned tokens will replace the first words of a text, ``slots`` (M,) says how many."""


@dataclass(frozen=True)
class Block:
    """One pre-norm transformer block of width D: x + out(attention(q, k, v)(norm1 x)), then x + fc2(act(fc1(norm2 x))).

    Every field is a module inside the model, so a forward hook on it is a hook on the model. The first positional input
    and the output of ``module`` are the residual stream, (B, N, D).
    """

    index: int
    num_heads: int
    module: nn.Module
    norm1: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    out: nn.Linear
    fc1: nn.Linear
    fc2: nn.Linear

    @classmethod
    def find(cls, index: int, num_heads: int, module: nn.Module, paths: Sequence[str]) -> Block:
        """The view of ``module``; ``paths`` lead to its parts ("self_attn.q_proj"), ``norm1`` to ``fc2``.

        Raises:
            ModelError: a part is missing, or one of the six linears is another kind of layer.
        """
        parts: list[Any] = []
        for path in paths:
            try:
                parts.append(module.get_submodule(path))
            except AttributeError:
                raise ModelError(f"unknown block {type(module).__name__}: it has no {path!r}.") from None
            if len(parts) > 3 and not isinstance(parts[-1], nn.Linear):
                found = type(parts[-1]).__name__
                raise ModelError(f"unknown layer in {type(module).__name__}: {path!r} is {found}, not nn.Linear.")
        return cls(index, num_heads, module, *parts)


@dataclass(frozen=True)
class Layout:
    """What the N positions of B token sequences are to the tower that reads them."""

    valid_BN: Tensor
    """False for padding, for what follows the end of a text, and for learned tokens."""
    summary_B: Tensor | None
    """Position of the token whose output becomes the feature; None where the feature is pooled from all tokens."""
    causal: bool
    """A token sees only itself and the tokens before it."""

    @classmethod
    def of_text(cls, ids_BL: Tensor, summary_B: Tensor, pad: int | None, causal: bool) -> Layout:
        """The layout of texts whose feature is read at ``summary_B``.

        Valid is everything but ``pad``, and the summary token even if it is one; without ``pad``, everything up to the
        summary token.
        """
        positions_L = torch.arange(ids_BL.shape[1], device=ids_BL.device)
        if pad is None:
            valid_BL = positions_L <= summary_B[:, None]
        else:
            valid_BL = (ids_BL != pad) | (positions_L == summary_B[:, None])
        return cls(valid_BL, summary_B, causal)

    def replaced(self, start: int, count_B: Tensor) -> Layout:
        """The layout of sequences in which the ``count_B`` tokens from ``start`` on are learned."""
        past_N = torch.arange(self.valid_BN.shape[1], device=self.valid_BN.device) - start
        learned_BN = (past_N >= 0) & (past_N < count_B[:, None])
        return dataclasses.replace(self, valid_BN=self.valid_BN & ~learned_BN)

    def grown(self, start: int, count: int) -> Layout:
        """The layout of sequences into which ``count`` learned tokens have been inserted, the first at ``start``."""
        learned_BL = torch.zeros(self.valid_BN.shape[0], count, dtype=torch.bool, device=self.valid_BN.device)
        valid_BN = torch.cat([self.valid_BN[:, :start], learned_BL, self.valid_BN[:, start:]], dim=1)
        summary_B = None if self.summary_B is None else self.summary_B + count * (self.summary_B >= start)
        return Layout(valid_BN, summary_B, self.causal)


@dataclass
class Tower:
    """One side of a dual encoder: its transformer blocks from input to output, and where tokens can be added to it."""

    name: Side
    blocks: list[Block]
    width: int
    embed: nn.Module
    """Gives the tokens that enter, (B, N, width): of a text its words before positions are added, of an image all that
    the tower has, with positions, before the first norm."""
    norm: nn.Module
    """The norm after the last block."""
    context: int = 0
    """The number of tokens of an image; the largest number of tokens of a text."""
    start: int = 0
    """Tokens in front of the words of a text."""
    summary: bool = False
    """The feature of an image is read from its first token."""
    layouts: tuple[Layout, ...] = field(default=(), repr=False, compare=False)
    """Of the forward pass in progress: of the tokens as they come and, if adapters insert some, of those after that."""

    def layout(self, length: int) -> Layout:
        """The layout in the forward pass in progress, for hooks that see N = ``length`` tokens.

        Raises:
            ModelError: the tower is not called through its ``DualEncoder``, or does not read that many tokens.
        """
        for layout in self.layouts:
            if layout.valid_BN.shape[1] == length:
                return layout
        if not self.layouts:
            raise ModelError(f"the {self.name} tower has adapters that must know its tokens: call encode_{self.name}.")
        known = self.layouts[0].valid_BN.shape[1]
        raise ModelError(f"the {self.name} tower adds tokens of its own ({length} for {known}): not supported.")


class Backend(ABC):
    """How to call, view, tokenize for and save the networks of one library. Immutable: copies of a model share it."""

    family: str
    image_parts: tuple[str, ...]
    """Names of the network's submodules that only images pass; all others are for texts, except scale and bias."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        """Texts, padded and truncated as the checkpoint wants it, or to ``context`` tokens; on the CPU."""

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
    def text_layout(self, network: Any, tokens: Tokens) -> Layout:
        """What the tokens of the text tower are."""

    @abstractmethod
    def save(self, network: Any, folder: Path) -> None:
        """Write a plain checkpoint of the library: safetensors, and what ``save_settings`` writes."""

    @abstractmethod
    def save_settings(self, network: Any, folder: Path) -> None:
        """Write a checkpoint without its weights: configuration, tokenizer, image settings."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self


def digest(tensors: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes and float32 values."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().to("cpu", torch.float32).contiguous().numpy()
        found.update(f"{name} {list(values.shape)}\n".encode())
        found.update(np.ascontiguousarray(values, "<f4").data)
    return found.hexdigest()[:16]
