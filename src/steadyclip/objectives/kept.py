"""Terms that keep what the frozen model says of images beside the classes: of contexts, random texts, each other."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from steadyclip.objectives.features import Contexts, Features, Image, RandomTexts, Read, Text
from steadyclip.objectives.terms import Term, kl


class ContextConsistency(Term):
    """KL(c0 || c), c the softmax of an image's cosines with contexts (templates without a name), c0 before training.

    Source: our reading of CAR-FT (Mao et al. 2022, arXiv 2211.16175).
    """

    templates: tuple[str, ...] = ()

    @property
    def reads(self) -> tuple[Read, ...]:
        contexts = Contexts(templates=self.templates)
        return Image(), Image(state="frozen"), Text(contexts), Text(contexts, "frozen")

    def __call__(self, f: Features) -> Tensor:
        image, image0, text, text0 = self.reads
        return kl(f.cosines(image0, text0), f.cosines(image, text))


class TextsKept(Term):
    """Half the mean squared change of an image's logits over random texts, whose tower is frozen.

    Source: Nam et al. 2024 (Lipsum-FT, arXiv 2404.00860), equation 7; they draw random tokens, these are random words.
    """

    number: int = 80

    @property
    def reads(self) -> tuple[Read, ...]:
        return Image(), Image(state="frozen"), Text(RandomTexts(number=self.number), "frozen")

    def __call__(self, f: Features) -> Tensor:
        image, image0, texts = self.reads
        return 0.5 * F.mse_loss(f.cosines(image, texts), f.cosines(image0, texts))


class GramAlignment(Term):
    """The images of a batch keep their similarities: the mean squared change of F F^T against the frozen features'.

    Source: our reading of the alignment of MPS-Tuning.
    """

    pairs: ClassVar[bool] = True

    on: Read = Image()

    @property
    def reads(self) -> tuple[Read, ...]:
        return self.on, dataclasses.replace(self.on, state="frozen")

    def __call__(self, f: Features) -> Tensor:
        now, before = (f[read] @ f[read].T for read in self.reads)
        return F.mse_loss(now, before)
