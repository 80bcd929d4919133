"""How far trained features are from those of the frozen model.

Shapes: N samples, D feature width, M texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from steadyclip.evaluation.records import Drift, TowerDrift
from steadyclip.evaluation.scorer import Scorer
from steadyclip.models.features import evaluating
from steadyclip.objectives import Batch, Classes, Image, Text

_IMAGES = 8
"""Images whose own texts are looked at, where texts depend on the image."""


def linear_cka(a_ND: Tensor, b_NE: Tensor) -> float:
    """Linear centered kernel alignment of two sets of features of the same N samples, in [0, 1].

    1 where one is the other, rotated, shifted and scaled as a whole, or where neither varies; 0 where only one does.
    Source: Kornblith et al. 2019, equations 4 and 5 (linear kernel), in feature space.
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


def measure(scorer: Scorer, features_ND: Tensor, frozen_ND: Tensor) -> Drift:
    """Drift of the image tower, from features that are there already, and of the text tower, over the prompts of the
    scorer's names. Where texts depend on the image, over those of the first few images."""
    planner, first = scorer.planner, frozen_ND[:_IMAGES].to(scorer.model.device)
    known = {Image(state=state): first for state in ("tuned", "frozen")} if planner.conditional else {}
    batch = Batch(torch.zeros(len(first), dtype=torch.long, device=first.device), known=known)
    f = planner.features(scorer.names, scorer.templates, batch, scoring=True)
    views = [Classes(templates=(template,)) for template in scorer.templates]
    with evaluating(scorer.model):
        reads = planner.canonical(Text(view, state) for view in views for state in ("tuned", "frozen"))
        planner.fill(f, reads, scorer.known)
        pairs = [(f[Text(view, "tuned")], f[Text(view, "frozen")]) for view in views]
        text_MD = torch.cat([tuned.flatten(0, -2) for tuned, _ in pairs]).cpu()
        frozen_MD = torch.cat([frozen.expand_as(tuned).flatten(0, -2) for tuned, frozen in pairs]).cpu()
    return Drift(tower_drift(features_ND, frozen_ND), tower_drift(text_MD, frozen_MD))
