"""How far trained features are from those of the frozen model.

Shapes: N samples, D feature width, M texts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyclip.evaluation.records import Drift, TowerDrift

if TYPE_CHECKING:
    from steadyclip.models import DualEncoder

# Prompts per forward pass.
_CHUNK = 256


def linear_cka(a_ND: Tensor, b_NE: Tensor) -> float:
    """Linear centered kernel alignment of two sets of features of the same N samples, in [0, 1].

    1 where one is the other, rotated, shifted and scaled as a whole; NaN-free: 1 where neither varies, 0 where only one
    does. Source: Kornblith et al. 2019, equations 4 and 5 (linear kernel), in feature space.
    """
    a_ND, b_NE = (x.double() - x.double().mean(dim=0) for x in (a_ND, b_NE))
    shared = (a_ND.T @ b_NE).square().sum()
    own = (a_ND.T @ a_ND).norm() * (b_NE.T @ b_NE).norm()
    if own == 0:
        return float(bool(a_ND.any()) == bool(b_NE.any()))
    return min(1.0, (shared / own).item())


def mean_cosine(a_ND: Tensor, b_ND: Tensor) -> float:
    """Mean cosine of each sample's two features, in [-1, 1]."""
    return torch.nn.functional.cosine_similarity(a_ND.double(), b_ND.double(), dim=-1).mean().clamp(-1, 1).item()


def tower_drift(features_ND: Tensor, frozen_ND: Tensor) -> TowerDrift:
    """Both measures of one tower."""
    return TowerDrift(linear_cka(features_ND, frozen_ND), mean_cosine(features_ND, frozen_ND))


@torch.inference_mode()
def measure(model: DualEncoder, features_ND: Tensor, frozen_ND: Tensor, texts: list[str]) -> Drift:
    """Drift of the image tower, from features that are there already, and of the text tower, over ``texts`` (M)."""

    def encode() -> Tensor:
        return torch.cat([model.encode_text(texts[i : i + _CHUNK]) for i in range(0, len(texts), _CHUNK)]).cpu()

    text_MD = encode()
    with model.frozen():
        frozen_MD = encode()
    return Drift(tower_drift(features_ND, frozen_ND), tower_drift(text_MD, frozen_MD))
