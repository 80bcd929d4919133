"""Zero-shot logits plus a vote of the training images: Tip-Adapter.

Shapes: N training images, V views of each, B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.core.errors import UsageError
from steadyclip.heads.base import FeatureTask, Head, HeadSpec
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Classes, Features, Read, Text, TextView


class CacheHead(HeadSpec):
    """logits = s cos(f, t) + alpha exp(-beta (1 - f F^T)) Y, with keys F of the training images and one-hot values Y.

    A key is the mean of the raw features of several augmented views, normalized. It knows only its own classes.

    Source: Zhang et al. 2022 (Tip-Adapter, arXiv 2111.03930), equations 3 to 5; the mean over ten augmented views is
    that of the authors' code. Their search has a range for each data set, of 0.1 to 7 up to 0.1 to 50; ours has one
    for all, in equal ratios.
    """

    what: ClassVar[str] = "a cache of training images"
    mergeable: ClassVar[bool] = False
    own_classes: ClassVar[bool] = True

    alpha: float = 1.0
    """Weight of the vote."""
    beta: float = 5.5
    """Sharpness of the affinity."""
    key_views: int = 10
    """Augmented views that a key is the mean of; 0: one view, prepared as for evaluation."""
    trained: bool = False
    """The keys are trained (Tip-Adapter-F)."""
    search: bool = False
    """alpha and beta are those of 800 pairs that name most validation images, the first such pair."""
    text: TextView = Classes(templates="all")

    def __post_init__(self) -> None:
        self.require("beta", self.beta >= 0, "0 or more")
        self.require("key_views", self.key_views >= 0, "0 or more")
        self.require("search", not (self.search and self.trained), "false where the keys are trained")

    @property
    def solves(self) -> bool:
        return True

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _CacheHead(classes, self, model.embed_dim)


class _CacheHead(Head):
    any_length: ClassVar[tuple[str, ...]] = ("keys_ND", "values_N")
    spec: CacheHead

    def __init__(self, classes: Sequence[str], spec: CacheHead, width: int) -> None:
        super().__init__(classes, spec)
        self.keys_ND = nn.Parameter(torch.zeros(0, width), requires_grad=spec.trained)
        self.register_buffer("values_N", torch.zeros(0, dtype=torch.long))
        if spec.search:
            self.register_buffer("blend", torch.tensor([spec.alpha, spec.beta]))

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        return (Text(self.spec.text),)

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        places = self.places(f.names)
        alpha, beta = self.blend if self.spec.search else (self.spec.alpha, self.spec.beta)
        return {"logits": f.cosines(sample, *self.reads()) + alpha * self._vote(f[sample], beta)[:, places]}

    def _vote(self, x_BD: Tensor, beta: Tensor | float) -> Tensor:
        """(B, C) over its own classes."""
        vote_BN = (-beta * (1 - x_BD @ self.keys_ND.T)).exp()
        return vote_BN @ F.one_hot(self.values_N, len(self.classes)).to(vote_BN.dtype)

    @torch.no_grad()
    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        features_NVD, labels_N = data.images("train", self.spec.key_views)
        self.keys_ND.data = F.normalize(features_NVD.mean(1), dim=-1)
        self.values_N = labels_N.clone()
        found = {"keys": len(labels_N)}
        return {**found, **self._searched(data)} if self.spec.search else found

    def _searched(self, data: FeatureTask) -> dict[str, Any]:
        val, labels_N = data.images("val", 0)
        if not len(labels_N):
            raise UsageError("search=true chooses alpha and beta on validation images, and there are none: set both.")
        x_ND, text_CD = F.normalize(val[:, 0], dim=-1), F.normalize(data.text(self.spec.text), dim=-1)
        zero_shot_NC, best = data.scale * x_ND @ text_CD.T, -1
        for beta in torch.logspace(-1, math.log10(50), 40).to(x_ND):
            vote_NC = self._vote(x_ND, beta)
            for alpha in torch.logspace(-1, math.log10(50), 20).to(x_ND):
                right = int(((zero_shot_NC + alpha * vote_NC).argmax(1) == labels_N).sum())
                if right > best:
                    best, self.blend = right, torch.stack([alpha, beta])
        alpha, beta = (round(value, 4) for value in self.blend.tolist())
        return {"alpha": alpha, "beta": beta, "validation": round(best / len(labels_N), 4)}
