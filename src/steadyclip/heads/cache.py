"""Zero-shot logits plus a vote of the training images: Tip-Adapter.

Shapes: N training images, V views of each, B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.heads.base import FeatureTask, Head, HeadSpec
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Classes, Features, Read, Text, TextView


class CacheHead(HeadSpec):
    """logits = s cos(f, t) + alpha exp(-beta (1 - f F^T)) Y, with keys F of the training images and one-hot values Y.

    A key is the mean of the raw features of several augmented views, normalized. It knows only its own classes.

    Source: Zhang et al. 2022 (Tip-Adapter, arXiv 2111.03930), equations 3 to 5; the mean over ten augmented views is
    that of the authors' code.
    """

    what: ClassVar[str] = "a cache of training images"
    mergeable: ClassVar[bool] = False

    alpha: float = 1.0
    """Weight of the vote."""
    beta: float = 5.5
    """Sharpness of the affinity."""
    key_views: int = 10
    """Augmented views that a key is the mean of; 0: one view, prepared as for evaluation."""
    trained: bool = False
    """The keys are trained (Tip-Adapter-F)."""
    text: TextView = Classes(templates="all")

    def __post_init__(self) -> None:
        self.require("beta", self.beta >= 0, "0 or more")
        self.require("key_views", self.key_views >= 0, "0 or more")

    @property
    def solves(self) -> bool:
        return True

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _CacheHead(classes, self, model.embed_dim)


class _CacheHead(Head):
    any_length: ClassVar[tuple[str, ...]] = ("keys_ND", "values_N")
    own_classes: ClassVar[bool] = True
    spec: CacheHead

    def __init__(self, classes: Sequence[str], spec: CacheHead, width: int) -> None:
        super().__init__(classes, spec)
        self.keys_ND = nn.Parameter(torch.zeros(0, width), requires_grad=spec.trained)
        self.register_buffer("values_N", torch.zeros(0, dtype=torch.long))

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        return (Text(self.spec.text),)

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        places = self.places(f.names)
        vote_BN = (-self.spec.beta * (1 - f[sample] @ self.keys_ND.T)).exp()
        values_NC = F.one_hot(self.values_N, len(self.classes)).to(vote_BN.dtype)[:, places]
        return {"logits": f.cosines(sample, *self.reads()) + self.spec.alpha * vote_BN @ values_NC}

    @torch.no_grad()
    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        features_NVD, labels_N = data.images("train", self.spec.key_views)
        self.keys_ND.data = F.normalize(features_NVD.mean(1), dim=-1)
        self.values_N = labels_N.clone()
        return {"keys": len(labels_N)}
