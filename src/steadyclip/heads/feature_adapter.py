"""A small net on the image feature, mixed with the feature itself: CLIP-Adapter.

Shapes: B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.heads.base import Head
from steadyclip.heads.text import TextHead, _TextHead
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Features, Read


class FeatureAdapterHead(TextHead):
    """scale * cos(ratio A(f) + (1 - ratio) f, class text), with A = relu(W2 relu(W1 f)) on the raw feature f.

    Source: Gao et al. 2021 (CLIP-Adapter, arXiv 2110.04544), equations 5 to 7, the image's adapter.
    """

    what: ClassVar[str] = "a small net on the image features"
    learns: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False  # relu

    ratio: float = 0.2
    """alpha: share of what the net makes."""
    reduction: int = 4
    """The hidden width is that of the features divided by this."""

    def __post_init__(self) -> None:
        self.require("ratio", 0 <= self.ratio <= 1, "from 0 to 1")
        self.require("reduction", self.reduction >= 1, "at least 1")

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _FeatureAdapterHead(classes, self, model.embed_dim)


class _FeatureAdapterHead(_TextHead):
    def __init__(self, classes: Sequence[str], spec: FeatureAdapterHead, width: int) -> None:
        super().__init__(classes, spec)
        self.ratio = spec.ratio
        hidden = max(1, width // spec.reduction)
        self.down, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        x_BD, ratio = f.get(sample).float(), self.ratio
        adapted_BD = self.up(self.down(x_BD).relu()).relu()
        mixed_BD = F.normalize(ratio * adapted_BD + (1 - ratio) * x_BD, dim=-1)
        text = f[self.reads(f.scoring)[0]]
        scale, bias = f.model.scale_and_bias(False)
        if text.ndim == 3:  # other texts for each image
            return {"logits": scale * torch.einsum("bd,bcd->bc", mixed_BD, text) + bias}
        return {"logits": scale * mixed_BD @ text.T + bias}

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        return None
