"""One view over the transformer blocks of every model: what adapters attach to."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from steadyclip.core.errors import ModelError


@dataclass(frozen=True)
class Block:
    """One pre-norm transformer block of width D: x + out(attention(q, k, v)(norm1 x)), then x + fc2(act(fc1(norm2 x))).

    Every field is a module inside the model, so a forward hook on it is a hook on the model. The first positional input
    and the output of ``module`` are the residual stream, (B, N, D).
    """

    index: int
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
    num_heads: int

    @classmethod
    def find(cls, index: int, module: nn.Module, num_heads: int, **paths: str) -> Block:
        """The view of ``module``, its parts given as attribute paths (``q="self_attn.q_proj"``).

        Raises:
            ModelError: a part is missing, or one of the six linears is another kind of layer.
        """
        parts: dict[str, nn.Module] = {}
        for name, path in paths.items():
            try:
                parts[name] = module.get_submodule(path)
            except AttributeError:
                raise ModelError(f"unknown block {type(module).__name__}: it has no {path!r}.") from None
            if name in ("q", "k", "v", "out", "fc1", "fc2") and not isinstance(parts[name], nn.Linear):
                found = type(parts[name]).__name__
                raise ModelError(f"unknown layer in {type(module).__name__}: {path!r} is {found}, not nn.Linear.")
        return cls(index=index, module=module, num_heads=num_heads, **parts)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class Layout:
    """What the N positions of B token sequences are to the tower that reads them."""

    valid_BN: Tensor
    """False for padding and for what follows the end of a text."""
    summary_B: Tensor | None
    """Position of the token whose output becomes the feature; None where the feature is pooled from all tokens."""
    causal: bool
    """A token sees itself and what stands before it only."""


@dataclass
class Tower:
    """One side of a dual encoder: its transformer blocks from input to output, and their width."""

    name: Literal["image", "text"]
    blocks: list[Block]
    width: int
    _layout: Callable[[int], Layout] | None = field(default=None, repr=False, compare=False)

    @contextmanager
    def reading(self, layout: Callable[[int], Layout]) -> Iterator[None]:
        """Inside, a forward pass reads sequences whose ``layout`` of N tokens is computed if an adapter asks for it."""
        before, self._layout = self._layout, functools.cache(layout)
        try:
            yield
        finally:
            self._layout = before

    def layout(self, length: int) -> Layout:
        """Of the forward pass that is under way, for hooks that see N = ``length`` tokens.

        Raises:
            ModelError: the tower is not called through its ``DualEncoder``, or does not read that many tokens.
        """
        if self._layout is None:
            raise ModelError(f"the {self.name} tower has adapters that must know its tokens: call encode_{self.name}.")
        return self._layout(length)
