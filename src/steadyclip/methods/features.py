"""Methods on features of the frozen model: CLIP-Adapter, TaskRes, ZS-LP, CLAP and the cross-modal linear probe."""

from __future__ import annotations

from steadyclip.heads import BlendedHead, FeatureAdapterHead, FromTextHead, ResidualHead
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import Classes, CrossEntropy, HeadPenalty, Objective, Term, TextEntropy


@register
class ClipAdapter(Method):
    """A small net on the image feature, mixed with the feature itself."""

    name = "clip-adapter"
    summary = "a small net on the image feature, mixed with it"
    source = "Gao et al. 2021 (CLIP-Adapter, arXiv 2110.04544), equations 5 to 7; trained as CoOp, as its authors say"

    head = FeatureAdapterHead()
    recipe = Recipe(optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, epochs=200, batch_size=32, views=10)


@register
class TaskRes(Method):
    """A residual is learned for each class text."""

    name = "taskres"
    summary = "a learned residual of each class text; cannot name new classes"
    source = "Yu et al. 2023 (TaskRes, arXiv 2211.10277), equation 4, on the regular base; authors' settings"

    head = ResidualHead()
    # the authors' Adam adds the decay to the gradient; AdamW, which decays apart from it, is the nearest here
    recipe = Recipe(learning_rate=2e-3, weight_decay=5e-4, epochs=200, batch_size=256, views=10)


@register
class ZeroShotProbe(Method):
    """A linear probe of cosines that starts from the class texts."""

    name = "zs-lp"
    summary = "a linear probe that starts from the class texts; cannot name new classes"
    source = "Silva-Rodriguez et al. 2024 (CLAP, arXiv 2312.12730), section 3.2; settings of the authors' code"

    head = FromTextHead(text=Classes(templates="all", mean="raw"))
    recipe = Recipe(optimizer="sgd", learning_rate=0.1, epochs=300, batch_size=256, views=20)


@register
class CLAP(ZeroShotProbe):
    """CE + w mean_k share_k |w_k - t_k|^2: each class is held to its text as much as the model knows it."""

    name = "clap"
    summary = "ZS-LP whose classes are held to their texts, the more the better the model knows them"
    source = "Silva-Rodriguez et al. 2024 (CLAP, arXiv 2312.12730), equations 7 to 10, its fixed multipliers"

    w: float = 1.0
    """Factor of the penalty; 0 is ZS-LP."""

    def __post_init__(self) -> None:
        self.require("w", self.w >= 0, "0 or more")

    def objective(self) -> Objective | Term:
        return CrossEntropy() + self.w * HeadPenalty()


@register
class LPPlusPlus(Method):
    """A linear probe whose rows are blended with the class texts, class by class; without gradient steps of ours."""

    name = "lp++"
    summary = "a linear probe blended with the class texts, by steps that the data give; cannot name new classes"
    source = "Huang et al. 2024 (LP++, arXiv 2404.02285), section 3; the start is that of the authors' code"

    head = BlendedHead()


@register
class CrossModal(Method):
    """A linear probe that learns from images and from the class texts alike: half of each batch is texts."""

    name = "cross-modal"
    summary = "a linear probe that learns from images and class texts alike; cannot name new classes"
    source = (
        "Lin et al. 2023 (cross-modal adaptation, arXiv 2301.06267), equation 4, with the zero-shot start; one of the "
        "authors' settings, where they choose by validation"
    )

    head = FromTextHead(unit=False)
    recipe = Recipe(learning_rate=1e-3, weight_decay=0.01, steps=12_800, batch_size=8, warmup_steps=50, views=0)
    texts: float = 0.5
    """Share of the texts in the loss; 0 learns from images alone."""

    def __post_init__(self) -> None:
        self.require("texts", 0 <= self.texts <= 1, "from 0 to 1")

    def objective(self) -> Objective | Term:
        return (1 - self.texts) * CrossEntropy() + self.texts * TextEntropy()
