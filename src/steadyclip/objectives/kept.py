"""Terms on what the model says of images beside the classes: of contexts, random texts, each other. Most keep it."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
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


class ClassContrast(Term):
    """Images and class texts of a batch come together where the class is the same, and apart where it is not.

    Each image is compared with the other images and with the texts of all classes, by the model's own scale; what is
    minimized is the mean of -log of the softmax at those of its class. An image's class text is always among them.

    Source: the supervised contrastive loss of Khosla et al. 2020 (arXiv 2004.11362), equation 2, on images and texts.
    As the part of MPS-Tuning (Chen et al. 2025, arXiv 2508.12877) that tells classes apart it is our reading.
    """

    pairs: ClassVar[bool] = True

    on: Read = Image()

    @property
    def reads(self) -> tuple[Read, ...]:
        return self.on, Text()

    def __call__(self, f: Features) -> Tensor:
        labels_B, text = f.labels(self.on.view), Text()
        among_BB = f.cosines(self.on, self.on).clone().fill_diagonal_(-torch.inf)  # itself is no other
        logits_BS = torch.cat([among_BB, f.cosines(self.on, text)], dim=1)
        classes_S = torch.cat([labels_B, torch.arange(logits_BS.shape[1] - len(labels_B), device=labels_B.device)])
        same_BS = labels_B[:, None] == classes_S
        same_BS[:, : len(labels_B)].fill_diagonal_(False)
        log_BS = logits_BS.log_softmax(dim=1).masked_fill(~same_BS, 0.0)
        return -(log_BS.sum(dim=1) / same_BS.sum(dim=1)).mean()
