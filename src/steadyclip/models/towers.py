"""One view over the transformer blocks of every model: what adapters attach to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from steadyclip.errors import ModelError


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
class Tower:
    """One side of a dual encoder: its transformer blocks from input to output, and their width."""

    name: Literal["image", "text"]
    blocks: list[Block]
    width: int
