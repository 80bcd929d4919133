"""Learned tokens of a space shared by both towers, put into their upper blocks: MMRL.

K tokens are mapped, by a linear layer for each block, into the sequences of either tower: behind the start token of a
text, behind all tokens of an image, which has no order. From the first block on that has them, each block's input gets
fresh ones in the same places. They are removed behind the last block, so that the summary token and the pooling see the
usual tokens; what the image's tokens have become is an output of its own.

Source: Guo and Gu 2025 (MMRL, arXiv 2503.08497); sizes and starts of the authors' code.

Shapes: B sequences, N tokens of the tower, W its width, K learned tokens, S their width, D width of the features.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from steadyclip.adapters.base import AdapterSpec, require_no_tokens
from steadyclip.core.errors import ModelError
from steadyclip.models import Adapter, DualEncoder


class SpaceTokens(AdapterSpec):
    """K learned tokens, mapped into the upper blocks of both towers."""

    mergeable: ClassVar[bool] = False  # they are inputs, not weights

    length: int = 5
    """K: learned tokens."""
    space: int = 512
    """S: their width before they are mapped into a tower."""
    first_block: int | None = None
    """Block, counted from 1, whose input they enter first, in both towers; none: half-way (6 of 12)."""

    def __post_init__(self) -> None:
        self.require("length", 1 <= self.length <= 1024, "from 1 to 1024")
        self.require("space", 1 <= self.space <= 65_536, "from 1 to 65536")
        self.require("first_block", self.first_block is None or self.first_block >= 1, "at least 1, or none")
        self.require("towers", self.towers == "both", "both: the space is what they share")

    def attach(self, model: DualEncoder) -> None:
        require_no_tokens(model, self.chosen(model))
        for tower in self.chosen(model):
            self.blocks_from(model, tower, self.first_block)  # has as many
        model.attach("space", SpaceMaps(model, self))


class SpaceMaps(Adapter):
    """The tokens of ``spec``, (K, S); their maps, a linear layer S -> W for each block of a tower; ``out``, W -> D."""

    def __init__(self, model: DualEncoder, spec: SpaceTokens) -> None:
        super().__init__()
        self.length, device = spec.length, model.device
        self.towers = {tower.name: tower for tower in spec.chosen(model)}
        self.first = {
            name: max(1, len(tower.blocks) // 2) - 1 if spec.first_block is None else spec.first_block - 1
            for name, tower in self.towers.items()
        }
        self.places = {b.module: (name, b.index) for name, tower in self.towers.items() for b in tower.blocks}
        self.tokens = nn.Parameter(0.02 * torch.randn(spec.length, spec.space, device=device))
        self.maps = nn.ModuleDict()
        for name, tower in self.towers.items():  # those of a tower start as copies of one
            first = nn.Linear(spec.space, tower.width, device=device)
            later = [copy.deepcopy(first) for _ in tower.blocks[self.first[name] + 1 :]]
            self.maps[name] = nn.ModuleList([first, *later])
        width = model.image_tower.width
        self.out = nn.Parameter(torch.randn(width, model.embed_dim, device=device) * width**-0.5)
        self._fresh: list[Tensor] = []
        self._kept_BKW: Tensor | None = None

    def install(self) -> list[RemovableHandle]:
        handles: list[RemovableHandle] = []
        for name, tower in self.towers.items():
            for block in tower.blocks[self.first[name] :]:
                handles.append(block.module.register_forward_pre_hook(self._before_block, with_kwargs=True))
            handles.append(tower.blocks[-1].module.register_forward_hook(self._take_off))
        return handles

    def added(self, tower: str) -> int:
        return self.length

    def prepare(self, tower: str) -> None:
        self._fresh = [tokens_to(self.tokens) for tokens_to in self.maps[tower]]  # type: ignore[union-attr]

    def emitted(self, tower: str) -> dict[str, Tensor]:
        """ "space": (B, 1, D), the mean of the image's learned tokens behind the last norm, mapped to the features."""
        self._fresh, kept_BKW, self._kept_BKW = [], self._kept_BKW, None
        if tower != "image" or kept_BKW is None:
            return {}
        return {"space": (self.towers["image"].norm(kept_BKW).mean(dim=1) @ self.out)[:, None]}

    def _before_block(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not self.enabled:
            return None
        if not self._fresh:
            raise ModelError("a tower with learned tokens must be called through its model: encode_image, encode_text.")
        (name, index), (x_BNW, *others) = self.places[module], inputs
        tower, first = self.towers[name], index == self.first[name]
        new_BKW = self._fresh[index - self.first[name]].to(x_BNW.dtype).expand(x_BNW.shape[0], -1, -1)
        count = 0 if first else self.length
        start = tower.start if name == "text" else x_BNW.shape[1] - count
        length = x_BNW.shape[1] - count
        x_BNW = torch.cat([x_BNW[:, :start], new_BKW, x_BNW[:, start + count :]], dim=1)

        def grown(value: Any) -> Any:
            """An attention mask gets rows and columns for the learned tokens; all else stays as it is."""
            is_mask = isinstance(value, Tensor) and value.ndim >= 2 and value.shape[-2:] == (length, length)
            return grown_mask(value, start, self.length, tower.layout(length).causal) if is_mask else value

        return (x_BNW, *map(grown, others)), {key: grown(value) for key, value in named.items()}

    def _take_off(self, module: nn.Module, inputs: tuple[Any, ...], x_BNW: Tensor) -> Tensor:
        if not self.enabled:
            return x_BNW
        name, _ = self.places[module]
        start = self.towers[name].start if name == "text" else x_BNW.shape[1] - self.length
        if name == "image":
            self._kept_BKW = x_BNW[:, start : start + self.length]
        return torch.cat([x_BNW[:, :start], x_BNW[:, start + self.length :]], dim=1)


def grown_mask(mask: Tensor, start: int, count: int, causal: bool) -> Tensor:
    """An attention mask (..., N, N) for sequences with ``count`` more tokens, the first at ``start``.

    True, or 0 where it is added to scores, lets a token (row) see another (column). The old tokens see each other as
    before, and the new ones unless they are causal and come earlier; a new token sees what the one before it saw.
    """
    may, may_not = (True, False) if mask.dtype == torch.bool else (0.0, float("-inf"))
    columns = mask.new_full((*mask.shape[:-1], count), may)
    if causal:
        columns[..., :start, :] = may_not
    wide = torch.cat([mask[..., :start], columns, mask[..., start:]], dim=-1)
    rows = wide[..., max(start - 1, 0), None, :].repeat(*(1,) * (mask.ndim - 2), count, 1)
    own = mask.new_full((count, count), may)
    if causal:
        rows[..., start + count :] = may_not  # all of these come later
        seen = torch.ones_like(own, dtype=torch.bool).tril()
        own = torch.where(seen, own, mask.new_full((), may_not))
    rows[..., start : start + count] = own
    return torch.cat([wide[..., :start, :], rows, wide[..., start:, :]], dim=-2)
