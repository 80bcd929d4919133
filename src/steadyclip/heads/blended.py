"""A linear probe whose rows are blended with the class texts: LP++.

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
from steadyclip.objectives.features import Classes, Features, Read, TextView


class BlendedHead(HeadSpec):
    """f.w_k + b_k + alpha_k f.t_k, by descent on all images at once, with step sizes that the data give.

    With N images F and mean cross-entropy, w and b take steps of 4N / lambda_max(F^T F), with momentum, and after each
    tenth of them alpha one of N / (4 max_k sum_i (f_i.t_k)^2), without. The iteration with the best validation accuracy
    is kept, the last of equals.

    Source: Huang et al. 2024 (LP++, arXiv 2404.02285), section 3. w and alpha start, and alpha's steps are made when,
    as in the authors' code; b starts at 0, where theirs is drawn.
    """

    what: ClassVar[str] = "a blended linear probe"
    own_classes: ClassVar[bool] = True

    iterations: int = 300
    """Steps, at most."""
    accumulated: bool = False
    """alpha's gradients add up over all iterations, as in the authors' code; off takes that of its own step."""
    text: TextView = Classes(templates="all", mean="raw")

    def __post_init__(self) -> None:
        self.require("iterations", self.iterations >= 0, "0 or more")

    @property
    def solves(self) -> bool:
        return True

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _BlendedHead(classes, self, model.embed_dim)


class _BlendedHead(Head):
    spec: BlendedHead
    text_CD: Tensor

    def __init__(self, classes: Sequence[str], spec: BlendedHead, width: int) -> None:
        super().__init__(classes, spec)
        self.weight, self.bias = nn.Parameter(torch.zeros(len(classes), width)), nn.Parameter(torch.zeros(len(classes)))
        self.alpha = nn.Parameter(torch.zeros(len(classes)))
        self.register_buffer("text_CD", torch.zeros(len(classes), width))

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        places = self.places(f.names)
        return self._blend()[places], self.bias[places]

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        return {"logits": self.by_rows(f, sample)}

    def _blend(self) -> Tensor:
        return self.weight + self.alpha[:, None] * self.text_CD

    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        (train, labels_N), (val, val_labels_N) = data.images("train", 1), data.images("val", 0)
        x_ND, val_ND = F.normalize(train[:, 0], dim=-1), F.normalize(val[:, 0], dim=-1)
        with torch.no_grad():
            self.text_CD.copy_(F.normalize(data.text(self.spec.text), dim=-1))
            like_NC = x_ND @ self.text_CD.T
            own_NC = F.one_hot(labels_N, len(self.classes)).to(x_ND)
            self.weight.copy_(own_NC.T @ x_ND)
            own_C = (own_NC * like_NC).sum(0) / own_NC.sum(0).clamp(min=1)
            self.alpha.fill_(250 * float(own_C.mean()))
        rate = 4 * len(x_ND) / float(torch.linalg.matrix_norm(x_ND.double(), 2).square())
        alpha_rate = len(x_ND) / (4 * float(like_NC.double().square().sum(0).max()))
        rows = torch.optim.SGD([self.weight, self.bias], rate, momentum=0.9)
        blends = torch.optim.SGD([self.alpha], alpha_rate)
        best, kept = (-1.0, 0), self.state_dict()
        with torch.enable_grad():
            for iteration in range(self.spec.iterations + 1):
                found = self._accuracy(val_ND, val_labels_N)
                if found >= best[0]:
                    best, kept = (found, iteration), {name: value.clone() for name, value in self.state_dict().items()}
                rows.zero_grad()
                if not self.spec.accumulated:
                    blends.zero_grad()
                F.cross_entropy(x_ND @ self._blend().T + self.bias, labels_N).backward()
                rows.step()
                if (iteration + 1) % 10 == 0:
                    blends.step()
        self.load_state_dict(kept)
        self.zero_grad()
        return {"iteration": best[1], "validation": round(best[0], 4)}

    @torch.no_grad()
    def _accuracy(self, x_ND: Tensor, labels_N: Tensor) -> float:
        """0 where there are no images, so that the last iteration is kept."""
        if not len(x_ND):
            return 0.0
        return float(((x_ND @ self._blend().T + self.bias).argmax(1) == labels_N).double().mean())
