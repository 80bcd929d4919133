"""Classes by their names: the logits of CLIP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from steadyclip.heads.base import Head, HeadSpec
from steadyclip.models import DualEncoder
from steadyclip.objectives.features import Classes, Features, Read, Text, TextView


class TextHead(HeadSpec):
    """scale * cos(sample, class text) + bias.

    Source: Radford et al. 2021 (CLIP), section 3.1; the ensemble of prompts in scoring, section 3.1.4.

    Attributes:
        view: class texts in training.
        scored: class texts in scoring.
    """

    learns: ClassVar[bool] = False

    view: TextView = Classes()
    scored: TextView = Classes(templates="all")

    def build(self, model: DualEncoder, classes: Sequence[str]) -> Head:
        return _TextHead(classes, self)


class _TextHead(Head):
    spec: TextHead

    def reads(self, scoring: bool = False) -> tuple[Read, ...]:
        return (Text(self.spec.scored if scoring else self.spec.view),)

    def outputs(self, f: Features, sample: Read) -> Mapping[str, Tensor]:
        return {"logits": f.cosines(sample, *self.reads(f.scoring))}

    def rows(self, f: Features) -> tuple[Tensor, Tensor | None] | None:
        (text,) = self.reads(f.scoring)
        if f[text].ndim == 3:  # other texts for each image
            return None
        scale, bias = f.model.scale_and_bias(False)
        return scale * f[text], bias.expand(len(f[text]))
