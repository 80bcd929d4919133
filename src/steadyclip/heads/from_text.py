"""Rows of weights that start from the class texts: TaskRes, ZS-LP and CLAP, and the heads of robust fine-tuning.

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


class ResidualHead(HeadSpec):
    """scale * cos(f, t_k + alpha x_k), t_k the raw class text and x_k learned from 0. It knows only its own classes.

    Source: Yu et al. 2023 (TaskRes, arXiv 2211.10277), equation 4.
    """

    what: ClassVar[str] = "a residual of class texts"
    own_classes: ClassVar[bool] = True

    alpha: float = 0.5
    """Factor of the residual."""
    text: TextView = Classes(templates="all", mean="raw")

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _ResidualHead(classes, self, model.embed_dim)


class _ResidualHead(Head):
    spec: ResidualHead

    def __init__(self, classes: Sequence[str], spec: ResidualHead, width: int) -> None:
        super().__init__(classes, spec)
        self.residual_CD = nn.Parameter(torch.zeros(len(classes), width))

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        return (Text(self.spec.text),)

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        places = self.places(f.names)
        scale, bias = f.model.scale_and_bias(False)
        text_CD = f.get(*self.reads()).float() + self.spec.alpha * self.residual_CD[places]
        return scale * F.normalize(text_CD, dim=-1), bias.expand(len(places))

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        return {"logits": self.by_rows(f, sample)}


class FromTextHead(HeadSpec):
    """scale * cos(f, w_k), or scale * f.w_k where not ``unit``; w_k starts as the class text t_k and is trained.

    "penalty" among its outputs is the mean over classes of share_k |w_k - t_k|^2, where share_k is the mean zero-shot
    probability of class k on its own training images: classes that the model knows are held more.

    Source: Silva-Rodriguez et al. 2024 (CLAP, arXiv 2312.12730), equations 7 to 10, with the mean of raw texts; with
    ``unit`` off the heads of cross-modal adaptation (Lin et al. 2023) and Lipsum-FT (Nam et al. 2024).
    """

    what: ClassVar[str] = "a linear head"
    own_classes: ClassVar[bool] = True

    unit: bool = True
    """w_k is normalized."""
    text: TextView = Classes(templates="all")

    @property
    def solves(self) -> bool:
        return True

    @property
    def starts_zero_shot(self) -> bool:
        return not self.unit

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _FromTextHead(classes, self, model.embed_dim)


class _FromTextHead(Head):
    spec: FromTextHead
    start_CD: Tensor
    share_C: Tensor

    def __init__(self, classes: Sequence[str], spec: FromTextHead, width: int) -> None:
        super().__init__(classes, spec)
        self.weight = nn.Parameter(torch.zeros(len(classes), width))
        self.register_buffer("start_CD", torch.zeros(len(classes), width))
        self.register_buffer("share_C", torch.zeros(len(classes)))

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        weight_CD = self.weight[self.places(f.names)]
        scale, bias = f.model.scale_and_bias(False)
        rows_CD = F.normalize(weight_CD, dim=-1) if self.spec.unit else weight_CD
        return scale * rows_CD, bias.expand(len(weight_CD))

    def pretrained(self) -> Mapping[str, Tensor]:
        return {**self.state_dict(), "weight": self.start_CD} if self.spec.starts_zero_shot else {}

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        moved_C = (self.weight - self.start_CD).square().sum(-1)
        return {"logits": self.by_rows(f, sample), "penalty": (self.share_C * moved_C).mean()}

    @torch.no_grad()
    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        text_CD = data.text(self.spec.text)
        self.start_CD.copy_(text_CD if self.spec.unit else F.normalize(text_CD, dim=-1))
        self.weight.copy_(self.start_CD)
        features_NVD, labels_N = data.images("train", 0)
        image_ND, unit_CD = F.normalize(features_NVD[:, 0], dim=-1), F.normalize(text_CD, dim=-1)
        own_N = (data.scale * image_ND @ unit_CD.T).softmax(-1).gather(1, labels_N[:, None]).squeeze(1)
        count_C = torch.bincount(labels_N, minlength=len(self.classes)).clamp(min=1)
        self.share_C.copy_(torch.zeros_like(self.share_C).index_add(0, labels_N, own_N.to(self.share_C)) / count_C)
        return {}


class ZeroShotHead(HeadSpec):
    """f.w_k + b_k, a plain linear layer that starts as the zero-shot classifier: w_k = scale * t_k, b_k = the bias.

    Source: Wortsman et al. 2022 (WiSE-FT, arXiv 2109.01903), section 3, and the authors' code: the scale is in the
    weights, so that a step of one size turns them less the larger the scale is.
    """

    what: ClassVar[str] = "a linear head"
    own_classes: ClassVar[bool] = True

    text: TextView = Classes(templates="all")

    @property
    def solves(self) -> bool:
        return True

    @property
    def starts_zero_shot(self) -> bool:
        return True

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _ZeroShotHead(classes, self, model)


class _ZeroShotHead(Head):
    spec: ZeroShotHead
    start_CD: Tensor
    start_C: Tensor

    def __init__(self, classes: Sequence[str], spec: ZeroShotHead, model: DualEncoder) -> None:
        super().__init__(classes, spec)
        bias_C = model.scale_and_bias(True)[1].detach().expand(len(classes))
        self.register_buffer("start_CD", torch.zeros(len(classes), model.embed_dim))
        self.register_buffer("start_C", bias_C.clone())
        self.weight, self.bias = nn.Parameter(self.start_CD.clone()), nn.Parameter(bias_C.clone())

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        places = self.places(f.names)
        return self.weight[places], self.bias[places]

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        return {"logits": self.by_rows(f, sample)}

    def pretrained(self) -> Mapping[str, Tensor]:
        return {**self.state_dict(), "weight": self.start_CD, "bias": self.start_C}

    @torch.no_grad()
    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        self.start_CD.copy_(data.scale * F.normalize(data.text(self.spec.text), dim=-1))
        self.weight.copy_(self.start_CD)
        return {}
