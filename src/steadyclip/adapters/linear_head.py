"""A linear classifier kept with the model: it leaves the features alone and is saved like an adapter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from steadyclip.models import Adapter


class LinearHead(Adapter):
    """``weight`` (C, D) and ``bias`` (C,) over L2-normalized image features, one row for each of ``classes``."""

    def __init__(self, classes: Sequence[str], embed_dim: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.weight = nn.Parameter(torch.zeros(len(self.classes), embed_dim))
        self.bias = nn.Parameter(torch.zeros(len(self.classes)))

    def install(self) -> list[RemovableHandle]:
        return []
