"""The first blocks of a tower, below everything that was attached to it: the same in all states of the model.

Shapes: B images in a batch, N tokens, D width of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.backends.cuda import flash_sdp_enabled

from steadyclip.models.towers import Block, Tower

if TYPE_CHECKING:
    from steadyclip.models.encoder import DualEncoder


class Trunk:
    """Lets several passes over the same rows share the blocks that they have in common.

    Attributes:
        below: those blocks.
        tokens_BND: what they made of the rows, once a pass has been through them.
    """

    def __init__(self, tower: Tower, depth: int) -> None:
        """``depth``: how many blocks are below what is attached, see ``untouched``."""
        self.below: list[Block] = tower.blocks[:depth]
        self.tokens_BND: Tensor | None = None
        self._next = tower.blocks[depth].module
        self._kind = tower.blocks[depth].fc1.weight.device.type
        self._arithmetic: Any = None

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around one pass: the first goes through the blocks, and others go on from what it made there.

        Only where they have the same arithmetic: on a processor in bf16, attention is computed in another way where
        gradients are needed (``core.precision.arithmetic``).
        """
        kind, arithmetic = self._kind, self._arithmetic
        self._arithmetic = (
            torch.is_autocast_enabled(kind), flash_sdp_enabled(), torch.get_float32_matmul_precision()
        )  # fmt: skip
        known = self.tokens_BND if self._arithmetic == arithmetic else None

        def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if known is not None:
                return (known, *args[1:])
            self.tokens_BND = args[0].detach()
            return None

        handle = self._next.register_forward_pre_hook(enter, prepend=True)
        skipped = [block.module for block in self.below] if known is not None else []
        for module in skipped:  # the instance's attribute hides the method
            module.forward = _pass_on
        try:
            yield
        finally:
            handle.remove()
            for module in skipped:
                del module.forward


def untouched(model: DualEncoder, tower: Tower) -> int:
    """How many blocks of ``tower`` are below everything that is attached or trained; 0 where that is not certain."""
    blocks = [block.module for block in tower.blocks]
    inside = {
        module
        for each in (model.image_tower, model.text_tower)
        for block in each.blocks
        for module in block.module.modules()
    }
    if any(_hooked(module) for module in model.network.modules() if module not in inside):
        return 0
    if any(weight.requires_grad for weight in model.network.parameters()):
        return 0
    hooked = [any(map(_hooked, block.modules())) for block in blocks]
    return hooked.index(True) if True in hooked else 0


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _pass_on(tokens_BND: Tensor, *_: Any, **__: Any) -> Tensor:
    return tokens_BND
