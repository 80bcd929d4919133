"""Classes by their names, from an image's feature and from its learned tokens: MMRL.

Shapes: B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.heads.base import Head
from steadyclip.heads.text import TextHead, _TextHead
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Features, Image, Read


class SpaceHead(TextHead):
    """alpha scale cos(f, t) + (1 - alpha) scale cos(f_r, t) among trained classes, scale cos(f, t) among others.

    f_r is the "space" output of ``SpaceTokens``. What it learned is of the trained classes, so that it has no say where
    a name is none of them.

    Source: Guo and Gu 2025 (MMRL, arXiv 2503.08497), section on inference.
    """

    what: ClassVar[str] = "a head with a second feature of the image"
    mergeable: ClassVar[bool] = False

    alpha: float = 0.7
    """Share of the image's own feature."""

    def __post_init__(self) -> None:
        self.require("alpha", 0 <= self.alpha <= 1, "from 0 to 1")

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _SpaceHead(classes, self)


class _SpaceHead(_TextHead):
    def __init__(self, classes: Sequence[str], spec: SpaceHead) -> None:
        super().__init__(classes, spec)
        self.alpha = spec.alpha

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        return (*super().reads(scoring), Image(what="space"))

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        text, space = self.reads(f.scoring)
        by_class = f.cosines(sample, text)
        if sample != Image():  # learned tokens are read of plain images only
            return {"logits": by_class, "class": by_class}
        scale, bias = f.model.scale_and_bias(False)
        space_BD, text_CD = F.normalize(f.get(space)[:, 0].float(), dim=-1), f[text]
        own = text_CD.ndim == 3  # other texts for each image
        by_space = scale * (torch.einsum("bd,bcd->bc", space_BD, text_CD) if own else space_BD @ text_CD.T) + bias
        trained = set(f.names) <= set(self.classes)
        logits = self.alpha * by_class + (1 - self.alpha) * by_space if trained else by_class
        return {"logits": logits, "class": by_class, "space": by_space}

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        return None
