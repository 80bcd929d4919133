"""One view over the transformer blocks of every model: what adapters attach to."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from steadyclip.core.errors import ModelError


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
    """A token sees itself and what stands before it only."""

    def replaced(self, start: int, count_B: Tensor) -> Layout:
        """The layout of sequences in which ``count_B`` tokens from ``start`` on are learned."""
        past_N = torch.arange(self.valid_BN.shape[1], device=self.valid_BN.device) - start
        learned_BN = (past_N >= 0) & (past_N < count_B[:, None])
        return dataclasses.replace(self, valid_BN=self.valid_BN & ~learned_BN)

    def grown(self, start: int, count: int) -> Layout:
        """The layout of sequences into which ``count`` learned tokens have been put, the first at ``start``."""
        learned_BL = torch.zeros(len(self.valid_BN), count, dtype=torch.bool, device=self.valid_BN.device)
        valid_BN = torch.cat([self.valid_BN[:, :start], learned_BL, self.valid_BN[:, start:]], dim=1)
        summary_B = None if self.summary_B is None else self.summary_B + count * (self.summary_B >= start)
        return Layout(valid_BN, summary_B, self.causal)


@dataclass
class Tower:
    """One side of a dual encoder: its transformer blocks from input to output, and where tokens can be added to it."""

    name: Literal["image", "text"]
    blocks: list[Block]
    width: int
    embed: nn.Module
    """Gives the tokens that enter, (B, N, width): of a text its words before positions are added, of an image all that
    the tower has, with positions, before the first norm."""
    norm: nn.Module
    """The norm behind the last block."""
    start: int = 0
    """Tokens that stand before the words of a text."""
    context: int = 0
    """Most tokens that a text can have."""
    _layouts: tuple[Layout, ...] = field(default=(), repr=False, compare=False)

    @contextmanager
    def reading(self, *layouts: Layout) -> Iterator[None]:
        """Inside, a forward pass reads sequences of these layouts: as they come, and grown by learned tokens."""
        before, self._layouts = self._layouts, layouts
        try:
            yield
        finally:
            self._layouts = before

    def layout(self, length: int) -> Layout:
        """Of the forward pass that is under way, for hooks that see N = ``length`` tokens.

        Raises:
            ModelError: the tower is not called through its ``DualEncoder``, or does not read that many tokens.
        """
        for layout in self._layouts:
            if layout.valid_BN.shape[1] == length:
                return layout
        if not self._layouts:
            raise ModelError(f"the {self.name} tower has adapters that must know its tokens: call encode_{self.name}.")
        known = self._layouts[0].valid_BN.shape[1]
        raise ModelError(f"the {self.name} tower adds tokens of its own ({length} for {known}): not supported.")
