"""How classes are told apart: heads over features, and what they can be filled from.

Shapes: N training images, V augmented views of each, B samples in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.spec import Spec
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Features, Read, TextView


class NoHead(SteadyClipError):
    """The head cannot classify among these names (a linear probe and classes it never saw). Not a failure: the record
    keeps the reason and the table an empty cell."""


@dataclass(frozen=True)
class FeatureTask:
    """Features of the frozen model that a head may fill itself from. No gradients.

    Attributes:
        images: ``images("train", views)`` gives raw features (N, V, D) of V augmented views, or with 0 of one view
            prepared as for evaluation (N, 1, D), and the labels (N,); ``images("val", 0)`` of validation images, of
            which there may be none.
        text: raw features (C, D) of the class names under a text view.
        scale: the factor of cosines in logits.
    """

    images: Callable[[Literal["train", "val"], int], tuple[Tensor, Tensor]]
    text: Callable[[TextView], Tensor]
    scale: Tensor


class Head(nn.Module):
    """Tells classes apart. Its parameters are trained; what ``solve`` chose stays in its buffers.

    Attributes:
        classes: the names it was made for, in the order of the labels.
        spec: its knobs.
        any_length: names of tensors whose length ``solve`` decides.
    """

    any_length: ClassVar[tuple[str, ...]] = ()

    def __init__(self, classes: Sequence[str], spec: HeadSpec) -> None:
        super().__init__()
        self.classes, self.spec = tuple(classes), spec

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        """What it reads beside the sample's own feature, in training or in scoring."""
        return ()

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        """ "logits" (B, C) over ``f.names``, and whatever else terms want.

        Raises:
            NoHead: it cannot tell these names apart.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement outputs()")

    def check_names(self, names: Sequence[str]) -> None:
        """Raises NoHead where it cannot tell ``names`` apart."""
        if self.spec.own_classes:
            self.places(names)

    def solve(self, data: FeatureTask, seed: int) -> dict[str, Any]:
        """Fill itself before the steps, or in their place; returns what it chose, for the record."""
        return {}

    def pretrained(self) -> Mapping[str, Tensor]:
        """Its whole state before the first step, where that is the zero-shot classifier; else nothing."""
        return {}

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        """The plain form over unit features, weight (C, D) and bias (C,), where it has one: then it can be merged."""
        return None

    def by_rows(self, f: Features, sample: Read) -> Tensor:
        """The logits of its plain form, (B, C)."""
        found = self.rows(f)
        assert found is not None
        weight_CD, bias_C = found
        logits_BC = f[sample] @ weight_CD.T
        return logits_BC if bias_C is None else logits_BC + bias_C

    def places(self, names: Sequence[str]) -> list[int]:
        """Positions of ``names`` among its classes.

        Raises:
            NoHead: one of them is not among them.
        """
        unknown = [name for name in names if name not in self.classes]
        if unknown:
            raise NoHead(
                f"{self.spec.what} cannot name new classes: {len(unknown)} of {len(names)} were not trained on "
                f"({', '.join(unknown[:3])}{', ...' if len(unknown) > 3 else ''})."
            )
        return [self.classes.index(name) for name in names]

    def take_lengths(self, state: Mapping[str, Tensor]) -> None:
        """Before ``state`` is read: what ``solve`` fills has its stored length, so no training image is needed."""
        for name in self.any_length:
            if name in state:
                own = getattr(self, name)
                own.data = torch.zeros_like(state[name], device=own.device)


class HeadSpec(Spec):
    """The knobs of a head.

    Attributes:
        what: how messages call it.
        mergeable: it has a plain form.
        learns: it has something to train, by steps or by ``solve``.
        own_classes: it knows no other names than those it was made for.
        solves: it fills itself from features before the steps, or in their place.
        starts_zero_shot: it learns, from the zero-shot classifier on, and can be averaged with that.
    """

    what: ClassVar[str] = "this head"
    mergeable: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    own_classes: ClassVar[bool] = False

    @property
    def solves(self) -> bool:
        return False

    @property
    def starts_zero_shot(self) -> bool:
        return False

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        """The head with its initial parameters. Needs no data, so that a trained head can be read back."""
        raise NotImplementedError(f"{type(self).__name__} must implement build()")
