"""A bottleneck beside a whole block whose inner layer both towers share: MMA.

Source: Yang et al. 2024 (MMA: Multi-Modal Adapter, CVPR), equations 4 to 6.

Shapes: B sequences, N tokens, D width of the tower, R rank.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, require_width
from steadyclip.models import Adapter, Block, DualEncoder


class SharedBottleneck(AdapterSpec):
    """x + scale * up(relu(shared(relu(down(norm1 x))))) beside a block; ``shared`` is one layer for both towers."""

    mergeable: ClassVar[bool] = False

    rank: int = 32
    """r: width of the bottleneck."""
    scale: float = 0.001
    """Factor of what is added to the block's output."""
    first_block: int | None = None
    """First adapted block, counted from 1; none: the upper two thirds (5 to 12 of 12)."""
    full_gradient: bool = True
    """The adapter's weights get the gradient that they would have with a factor of 1, as in the authors' code."""

    def __post_init__(self) -> None:
        self.require("rank", self.rank >= 1, "at least 1")
        self.require("scale", self.scale > 0, "above 0")
        self.require("first_block", self.first_block is None or self.first_block >= 1, "at least 1")

    def attach(self, model: DualEncoder) -> None:
        """Blocks share their layer counted from the top, as towers may differ in depth."""
        adapted: dict[str, list[Block]] = {}
        for tower in self.chosen(model):
            adapted[tower.name] = list(self.blocks_from(model, tower, self.first_block))[::-1]
        for k in range(max(map(len, adapted.values()))):
            blocks = {name: found[k] for name, found in adapted.items() if k < len(found)}
            model.attach(f"shared_{k}", SharedBlocks(blocks, self))


class SharedBlocks(Adapter):
    """What is beside one block of each tower.

    Attributes:
        down, up: by tower, D -> R and R -> D.
        shared: R -> R.
    """

    def __init__(self, blocks: dict[str, Block], spec: SharedBottleneck) -> None:
        super().__init__()
        self.blocks, self.spec = blocks, spec
        self.names: dict[nn.Module, str] = {
            module: name for name, block in blocks.items() for module in (block.norm1, block.module)
        }
        device, R = next(iter(blocks.values())).fc1.weight.device, spec.rank
        width = {name: block.fc1.in_features for name, block in blocks.items()}
        require_width("rank", R, min(width.values()), times=64)
        self.shared = _linear(R, R).to(device)
        self.down = nn.ModuleDict({name: _linear(D, R).to(device) for name, D in width.items()})
        self.up = nn.ModuleDict({name: _linear(R, D).to(device) for name, D in width.items()})
        self._beside: dict[str, Tensor] = {}

    def install(self) -> list[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for block in self.blocks.values():
            handles += [block.norm1.register_forward_hook(self._read), block.module.register_forward_hook(self._add)]
        return handles

    def emitted(self, tower: str) -> dict[str, Tensor]:
        self._beside.clear()
        return {}

    def _read(self, module: nn.Module, inputs: tuple[Any, ...], x_BND: Tensor) -> None:
        if self.enabled:
            name, scale = self.names[module], self.spec.scale
            if self.spec.full_gradient:  # what goes on to the blocks below is scaled as ever
                x_BND = x_BND.detach() + scale * (x_BND - x_BND.detach())
            hidden_BNR = F.relu(self.shared(F.relu(self.down[name](x_BND))))
            y_BND = self.up[name](hidden_BNR)
            self._beside[name] = scale * y_BND
            if self.spec.full_gradient:
                self._beside[name] = self._beside[name] + (1 - scale) * (y_BND - y_BND.detach())

    def _add(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + self._beside.pop(self.names[module]) if self.enabled else output


def _linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out")
    nn.init.zeros_(layer.bias)
    return layer
