"""Robust fine-tuning: image tower and head (FT), LP-FT, L2-SP, CAR-FT, Lipsum-FT and CLIPood."""

from __future__ import annotations

from steadyclip.adapters import TowerWeights
from steadyclip.data.prompts import imagenet_80
from steadyclip.heads import FromTextHead, LinearHead, ZeroShotHead
from steadyclip.methods.average import Average
from steadyclip.methods.base import Method
from steadyclip.methods.full import Full
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import L2SP, ContextConsistency, CrossEntropy, MarginEntropy, Objective, Term, TextsKept


@register
class FT(Method):
    """The image tower and a linear head that starts from the class texts. WiSE-FT averages both with their start."""

    name = "ft"
    summary = "image tower and a linear head that starts from the class texts; cannot name new classes"
    source = "Wortsman et al. 2022 (WiSE-FT, arXiv 2109.01903), section 3; settings of the authors' code for ImageNet"

    adapters = (TowerWeights("image"),)
    head = ZeroShotHead()
    recipe = Recipe(learning_rate=3e-5, weight_decay=0.1, epochs=10, batch_size=512, warmup_steps=500, clip_norm=1.0)


@register
class LPFT(FT):
    """First a linear probe, then all of the image tower with it."""

    name = "lp-ft"
    summary = "a linear probe first, then the image tower with it; cannot name new classes"
    source = "Kumar et al. 2022 (LP-FT, arXiv 2202.10054); settings as for ft"

    head = LinearHead()


@register
class L2SPMethod(Full):
    """CE + w/2 |theta - theta_0|^2 over all weights."""

    name = "l2-sp"
    summary = "full fine-tuning held to the pretrained weights"
    source = "Li et al. 2018 (L2-SP, arXiv 1802.01483), equation 3, on all weights; trained as full"

    w: float = 0.01
    """alpha: weight of the distance."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective | Term:
        return CrossEntropy() + self.w * L2SP()


@register
class CARFT(Full):
    """CE + w KL(c0 || c): c says in which context an image is, such as "a sketch of a", c0 what it was before."""

    name = "car-ft"
    summary = "full fine-tuning that keeps what images say of their context"
    source = "our reading of CAR-FT (Mao et al. 2022, arXiv 2211.16175): CLIP's 80 templates without names as contexts"

    w: float = 1.0
    """Weight of the KL divergence."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective | Term:
        return CrossEntropy() + self.w * ContextConsistency(imagenet_80())


@register
class LipsumFT(FT):
    """CE + w times half the squared change of an image's logits over random texts."""

    name = "lipsum-ft"
    summary = "image tower and a linear head, held to what images say of random texts; cannot name new classes"
    source = "Nam et al. 2024 (Lipsum-FT, arXiv 2404.00860), equation 7; settings of the authors' code for DomainNet"

    head = FromTextHead(unit=False)
    recipe = Recipe(learning_rate=1e-5, steps=5_000, batch_size=256, warmup_steps=500)
    w: float = 1.0
    """lambda: weight of what is kept."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective | Term:
        return CrossEntropy() + self.w * TextsKept()


@register
class CLIPood(Method):
    """CE whose margin grows with the distance of two class texts; a beta average of the steps."""

    name = "clipood"
    summary = "image tower by a cross-entropy with margins between texts, averaged over all steps"
    source = "Shu et al. 2023 (CLIPood, arXiv 2302.00864), equations 3 to 5; settings of the authors' open-class rows"

    adapters = (TowerWeights("image"),)
    average = Average("beta", "step", b=0.1)
    recipe = Recipe(learning_rate=5e-6, weight_decay=0.1, steps=500, batch_size=36)
    margin: float = 0.3
    """lambda: factor of the margin 1 - cos(t_y, t_k)."""

    def __post_init__(self) -> None:
        self.require("margin", self.margin >= 0, "0 or more")

    def objective(self) -> Objective | Term:
        return MarginEntropy(margin=self.margin)
