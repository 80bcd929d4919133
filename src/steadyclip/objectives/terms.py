"""What is minimized: terms that declare what they read, and their weighted sum.

Shapes: B images, C classes, K adapted blocks, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.core.errors import UsageError
from steadyclip.core.spec import Spec, piece_name
from steadyclip.objectives.features import (
    Cutout,
    DrawnPrompts,
    Features,
    Image,
    Plain,
    Read,
    Text,
    TextsOfStream,
    View,
)


class Term(Spec):
    """One loss. A value: its fields are numbers and reads, never tensors; what is learned lives in an adapter or head.

    Terms add up and take factors: ``CrossEntropy() + 1.5 * Consistency()`` is an ``Objective``.

    Attributes:
        pairs: the term compares the images of a batch with each other, so it must see the whole batch.
        needs_head: it reads the head's outputs.
        needs_weights: it reads the weights themselves.
    """

    pairs: ClassVar[bool] = False
    needs_head: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """What it is called in logs."""
        return piece_name(type(self))

    @property
    def _cut(self) -> str:
        """The end of the label of a term on images with a square cut out."""
        views = [value.view if isinstance(value, Read) else value for value in vars(self).values()]
        return "_cut" if any(isinstance(view, Cutout) for view in views) else ""

    @property
    def reads(self) -> tuple[Read, ...]:
        """The features it needs; by default all its fields that are reads."""
        return tuple(value for value in vars(self).values() if isinstance(value, Read))

    def __call__(self, f: Features) -> Tensor:
        """A scalar."""
        raise NotImplementedError(f"{type(self).__name__} must implement __call__()")

    def __add__(self, other: Term | Objective) -> Objective:
        return as_objective(self) + other

    def __mul__(self, factor: float) -> Objective:
        return as_objective(self) * factor

    __rmul__ = __mul__


class Objective(Spec):
    """Weighted terms. A term of weight 0 is dropped with its reads.

    Attributes:
        parts: (weight, term) pairs.
        groups: instead of parts, sums whose gradients are made into one by ``combine`` (ProGrad).
        combine: the gradients of one parameter, one for each group -> its gradient.
    """

    parts: tuple[tuple[float, Term], ...] = ()
    groups: tuple[Objective, ...] = ()
    combine: Callable[[Sequence[Tensor]], Tensor] | None = None

    @property
    def terms(self) -> tuple[tuple[float, Term], ...]:
        """All terms with a weight other than 0, those of groups in order."""
        own = tuple((weight, term) for weight, term in self.parts if weight)
        return own + tuple(pair for group in self.groups for pair in group.terms)

    @property
    def pairs(self) -> bool:
        """Some term compares the images of a batch with each other."""
        return any(term.pairs for _, term in self.terms)

    def __call__(self, f: Features) -> dict[str, Tensor]:
        """The weighted terms by label; equal labels are numbered."""
        found: dict[str, Tensor] = {}
        for weight, term in self.terms:
            label = name = term.label
            while name in found:
                name = f"{label}_{sum(key.startswith(label) for key in found) + 1}"
            found[name] = weight * term(f)
        return found

    def __add__(self, other: Term | Objective) -> Objective:
        return Objective(self._sum() + as_objective(other)._sum())

    def __mul__(self, factor: float) -> Objective:
        return Objective(tuple((factor * weight, term) for weight, term in self._sum()))

    __rmul__ = __mul__

    def _sum(self) -> tuple[tuple[float, Term], ...]:
        """Its parts.

        Raises:
            UsageError: it is no plain sum, but groups.
        """
        if self.groups:
            raise UsageError(
                "an objective of groups takes no factor and no further terms, as their gradients are combined: put "
                "both into its groups."
            )
        return self.parts


def as_objective(value: Term | Objective) -> Objective:
    """A single term as a sum of one."""
    return value if isinstance(value, Objective) else Objective(((1.0, value),))


def kl(teacher_BC: Tensor, student_BC: Tensor) -> Tensor:
    """KL(teacher || student) between the softmaxes of two sets of logits, mean over images, in float32.

    No gradient flows into the teacher. It is 0 where both agree; its gradient with respect to the student's logits is
    (softmax(student) - softmax(teacher)) / B.

    Source: Kullback and Leibler 1951; as a distillation loss at temperature 1, Hinton et al. 2015.
    """
    teacher, student = (F.log_softmax(logits.float(), dim=-1) for logits in (teacher_BC.detach(), student_BC))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


class CrossEntropy(Term):
    """CE of the head's logits against the labels.

    Source: with class prompts as the classifier, the zero-shot head of CLIP (Radford et al. 2021, section 3.1).

    Attributes:
        on: the sample that is classified.
        output: which output of the head.
    """

    needs_head: ClassVar[bool] = True

    on: Read = Image()
    output: str = "logits"

    @property
    def label(self) -> str:
        return f"cross_entropy{self._cut}" + ("" if self.output == "logits" else f"_{self.output}")

    def __call__(self, f: Features) -> Tensor:
        return F.cross_entropy(f.logits(self.on, self.output).float(), f.labels(self.on.view))


class MarginEntropy(CrossEntropy):
    """CE of scale * f.t_k + scale * margin * (1 - t_y.t_k): the other classes must be beaten by the more, the less
    they are like the true one.

    Source: Shu et al. 2023 (CLIPood, arXiv 2302.00864), equation 3, less what is equal for all classes.
    """

    margin: float = 0.3

    @property
    def reads(self) -> tuple[Read, ...]:
        return self.on, Text()

    def __call__(self, f: Features) -> Tensor:
        text_CD, labels_B = f[Text()], f.labels(self.on.view)
        far_BC = f.scale(self.on, Text()) * (1 - text_CD[labels_B] @ text_CD.T)
        return F.cross_entropy(f.logits(self.on, self.output).float() + self.margin * far_BC, labels_B)


class TextEntropy(Term):
    """CE of the head's logits of the class texts themselves, each being of its class.

    Source: Lin et al. 2023 (cross-modal adaptation, arXiv 2301.06267), equation 4.
    """

    needs_head: ClassVar[bool] = True

    on: Read = Text()

    def __call__(self, f: Features) -> Tensor:
        logits_CC = f.logits(self.on).float()
        return F.cross_entropy(logits_CC, torch.arange(len(logits_CC), device=logits_CC.device))


class HeadPenalty(Term):
    """A scalar that the head puts out beside its logits, such as the distance of its rows to where they started."""

    needs_head: ClassVar[bool] = True

    output: str = "penalty"
    on: Read = Image()

    @property
    def label(self) -> str:
        return self.output

    def __call__(self, f: Features) -> Tensor:
        return f.outputs(self.on)[self.output]


class CrossedEntropy(Term):
    """CE(p_a, y) + CE(p_b, y): tuned images by frozen texts, and frozen images by tuned texts.

    Our reading of OrthCR's cross-regularization (arXiv 2407.08374 v1) as a supervised loss.
    """

    view: View = Plain()

    @property
    def label(self) -> str:
        return f"crossed_entropy{self._cut}"

    @property
    def reads(self) -> tuple[Read, ...]:
        return Image(self.view), Image(self.view, "frozen"), Text(), Text(state="frozen")

    def __call__(self, f: Features) -> Tensor:
        labels_B = f.labels(self.view)
        tuned_image, frozen_image, tuned_text, frozen_text = self.reads
        by_image, by_text = f.cosines(tuned_image, frozen_text), f.cosines(frozen_image, tuned_text)
        return F.cross_entropy(by_image, labels_B) + F.cross_entropy(by_text, labels_B)


class Consistency(Term):
    """The method's predictions are held to the zero-shot ones p0 of the frozen model.

    Without ``cross`` KL(p0 || p) (OrthSR); with it KL(p0 || p_a) + KL(p0 || p_b), where p_a are tuned images by frozen
    texts and p_b frozen images by tuned texts (OrthCR). The formulas are our reading of arXiv 2407.08374, v3 and v1.

    Attributes:
        view: of the images.
        cross: each tower, tuned, must agree with the other one, frozen.
        teacher: the class texts of p0.
        per_class: the divergence is divided by the number of classes too.
    """

    view: View = Plain()
    cross: bool = False
    teacher: Read = Text(state="frozen")
    per_class: bool = False

    @property
    def label(self) -> str:
        return f"consistency{self._cut}"

    @property
    def needs_head(self) -> bool:  # type: ignore[override]
        return not self.cross

    @property
    def reads(self) -> tuple[Read, ...]:
        own = (Image(self.view), Text()) if self.cross else (Image(self.view),)
        return (*own, Image(self.view, "frozen"), self.teacher)

    def __call__(self, f: Features) -> Tensor:
        x, x0 = Image(self.view), Image(self.view, "frozen")
        teacher_BC = f.cosines(x0, self.teacher)
        share = 1 / teacher_BC.shape[1] if self.per_class else 1
        if self.cross:
            return share * (kl(teacher_BC, f.cosines(x, self.teacher)) + kl(teacher_BC, f.cosines(x0, Text())))
        return share * kl(teacher_BC, f.logits(x))


class Distance(Term):
    """Between two features, row by row: the mean absolute difference of their elements, or 1 - cosine."""

    a: Read
    b: Read
    kind: Literal["l1", "cosine"] = "l1"

    @property
    def label(self) -> str:
        return f"{self.kind}_{self.a.tower}{self._cut}"

    def __call__(self, f: Features) -> Tensor:
        if self.kind == "l1":
            return F.l1_loss(f[self.a], f[self.b])
        return 1 - (f[self.a] * f[self.b]).sum(-1).mean()


def FeatureL1(tower: Literal["image", "text"]) -> Distance:
    """The L1 distance of a tower's features to the frozen ones."""
    read = Image if tower == "image" else Text
    return Distance(read(), read(state="frozen"))


class DeltaL1(Term):
    """The mean absolute value of what adapters add: over adapted tokens and channels, then over blocks.

    Reads "delta" of an adapter: (rows, K, 2), the sum of the absolute values and their number, for each row and block.
    """

    on: Read = Image(what="delta")

    @property
    def label(self) -> str:
        return f"l1_{self.on.tower}"

    def __call__(self, f: Features) -> Tensor:
        total_K2 = f.get(self.on).sum(0)
        return (total_K2[:, 0] / total_K2[:, 1]).mean()


class InfoNCE(Term):
    """(CE(s F G^T, diag) + CE(s G F^T, diag)) / 2 for features F of images and G of their texts.

    The negatives of a pair are the other pairs of the batch, over all processes.

    Attributes:
        text: row i belongs to image i.
        image: the other side.
        mask_same_class: other pairs of the same class are no negatives.

    Source: CLIP (Radford et al. 2021, figure 3) in pretraining; FLYP (Goyal et al. 2023, section 3) in fine-tuning.
    """

    pairs: ClassVar[bool] = True

    text: Read
    image: Read = Image()
    mask_same_class: bool = False

    @property
    def label(self) -> str:
        view = self.text.view
        if isinstance(view, TextsOfStream):
            return view.stream
        return "prompts" if isinstance(view, DrawnPrompts) and not view.again else "captions"

    def __call__(self, f: Features) -> Tensor:
        by_image_GG = f.cosines(self.image, self.text)
        by_text_GG, place_G = by_image_GG.T, torch.arange(len(by_image_GG), device=by_image_GG.device)
        if self.mask_same_class:
            labels_G = f.labels(self.image.view)
            same_GG = (labels_G[:, None] == labels_G[None]).fill_diagonal_(False)  # its own text is what it has to find
            by_image_GG, by_text_GG = (x.masked_fill(same_GG, -torch.inf) for x in (by_image_GG, by_text_GG))
        return (F.cross_entropy(by_image_GG, place_G) + F.cross_entropy(by_text_GG, place_G)) / 2


class L2SP(Term):
    """Half the squared distance of the trained weights to the pretrained ones.

    Source: Li et al. 2018 (L2-SP), equation 3, without the part on the new head.
    """

    needs_weights: ClassVar[bool] = True

    def __call__(self, f: Features) -> Tensor:
        return 0.5 * torch.stack([(new - old).square().sum() for new, old in f.weights()]).sum()


def reads_of(objective: Objective, head_reads: Sequence[Read]) -> set[Read]:
    """All that the terms read, with the reads of the head where some term needs it, and those of their views."""
    found = {read for _, term in objective.terms for read in term.reads}
    if any(term.needs_head for _, term in objective.terms):
        found |= {*head_reads}
    while more := {inner for read in found for inner in read.view.reads} - found:
        found |= more
    return found
