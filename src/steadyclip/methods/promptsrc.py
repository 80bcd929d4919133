"""PromptSRC: learned tokens of both towers, held to the frozen model (Khattak et al. 2023, arXiv 2307.06948)."""

from __future__ import annotations

from typing import Literal

from steadyclip.data.prompts import imagenet_80
from steadyclip.methods.average import Average
from steadyclip.methods.maple import IVLP
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import Classes, Consistency, CrossEntropy, Distance, Image, Objective, Text


@register
class PromptSRC(IVLP):
    """CE + text |t - t0| + image |f - f0| + KL(p0 || p) / C, t0 the mean text of many prompts; Gaussian average.

    The L1 distances are means over elements, the KL is a mean over images and classes, as in the authors' code.
    """

    name = "promptsrc"
    summary = "learned tokens in both towers, held to the frozen features and predictions, averaged over epochs"
    source = "Khattak et al. 2023 (PromptSRC, arXiv 2307.06948), equations 4 to 9; settings of the authors' code"

    average = Average("gaussian", "epoch", mean=15.0, std=1.0)
    recipe = Recipe(optimizer="sgd", learning_rate=2.5e-3, weight_decay=5e-4, epochs=20, batch_size=4)
    text: float = 25.0
    """Weight of the text distance."""
    image: float = 10.0
    """Weight of the image distance."""
    kl: float = 1.0
    """Weight of the KL divergence."""
    prompts: Literal["imagenet-80", "own"] = "imagenet-80"
    """Of the frozen texts t0: CLIP's 80 for ImageNet (the authors took 60 of them, on every data set), or the data
    set's own."""

    def __post_init__(self) -> None:
        for knob in ("text", "image", "kl"):
            self.require(knob, getattr(self, knob) >= 0, "0 or more")

    def objective(self) -> Objective:
        templates = imagenet_80() if self.prompts == "imagenet-80" else "all"
        held = Text(Classes(templates=templates, mean="raw"), "frozen")
        return (
            CrossEntropy()
            + self.text * Distance(Text(), held)
            + self.image * Distance(Image(), Image(state="frozen"))
            + self.kl * Consistency(teacher=held, per_class=True)
        )
