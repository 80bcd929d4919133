"""From images to classes: the head of a method among given names.

Shapes: N images, B images in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyclip.core.errors import ModelError, UsageError
from steadyclip.core.precision import AskedPrecision, arithmetic
from steadyclip.methods.planner import TextRows
from steadyclip.models.features import evaluating
from steadyclip.objectives import Batch, Image, Plain

if TYPE_CHECKING:
    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder

_AT_ONCE = 4096
"""Images: 50,000 of them by 20,000 classes must not become one matrix."""
_CONDITIONAL = 8
"""Images where each has texts of its own."""


class Scorer:
    """Tells ``names`` apart by a model with a method's pieces on it. Class texts are computed once, when it is made.

    Attributes:
        known: the rows of single tuned texts, for whoever needs them again.

    Raises:
        ModelError: the head is one that learns, and was not trained.
        NoHead: the method cannot classify among these names.
        UsageError: no name, no template, or a template without ``{}``.
    """

    def __init__(
        self,
        model: DualEncoder,
        method: Method,
        names: Sequence[str],
        templates: Sequence[str],
        precision: AskedPrecision = "auto",
    ) -> None:
        if not names or not templates:
            raise UsageError(f"a head needs class names and templates; there are {len(names)} and {len(templates)}.")
        if bad := [template for template in templates if "{}" not in template]:
            raise UsageError(f"template {bad[0]!r} has no {{}} where the class name goes.")
        self.model, self.names, self.templates = model, tuple(names), tuple(templates)
        self.planner = method.planner(model)
        if model.head is None or model.head.spec != method.head:
            if method.head.learns:
                raise ModelError(
                    f"the head of {method.name!r} with these knobs was not trained on {model.name}: train it, or "
                    "open its run with load_run."
                )
            self.planner.head = method.head.build(model, names).to(model.device)
        self.planner.head.check_names(self.names)
        self.planner.arithmetic = lambda: arithmetic(model.device, precision)
        self.reads = self.planner.canonical([Image(), *self.planner.head.reads(scoring=True)])
        if views := {read.view for read in self.reads if read.tower == "image"} - {Plain()}:
            raise UsageError(f"the head of {method.name!r} reads {views}, but a score is of plain images only.")
        self.known: TextRows = {}
        self.texts = {}
        if not self.planner.conditional:
            f = self.planner.features(self.names, self.templates, None, scoring=True)
            with evaluating(model):
                self.planner.fill(f, [read for read in self.reads if read.tower == "text"], self.known)
            self.texts = f.raw

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C) from raw outputs of the image tower by name, "feature" (B, D) among them."""
        device = self.model.device
        known = {read: rows[read.what].to(device) for read in self.reads if read.tower == "image"}
        labels_B = torch.zeros(len(rows["feature"]), dtype=torch.long, device=device)
        batch = Batch(labels_B, known={**self.texts, **known})
        f = self.planner.features(self.names, self.templates, batch, scoring=True)
        with evaluating(self.model):
            self.planner.fill(f, self.reads)
            return f.logits()

    def rows(self) -> tuple[Tensor, Tensor | None] | None:
        """The head in its plain form over unit features, weight (C, D) and bias (C,); None where it has none."""
        if self.planner.conditional:
            return None
        f = self.planner.features(self.names, self.templates, None, scoring=True)
        f.raw.update(self.texts)
        with evaluating(self.model):
            return self.planner.head.rows(f)

    def every(self, rows: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """As ``logits``, of any number of images, in parts that fit into memory."""
        size = _CONDITIONAL if self.planner.conditional else _AT_ONCE
        for start in range(0, len(rows["feature"]), size):
            yield self.logits({what: values[start : start + size] for what, values in rows.items()})

    def predict(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predicted class (N,) and its softmax probability (N,) of each image, on the CPU."""
        predicted, confidence = [], []
        for logits_BC in self.every(rows):
            best_B = logits_BC.softmax(dim=1).max(dim=1)
            predicted.append(best_B.indices.cpu())
            confidence.append(best_B.values.cpu())
        return torch.cat(predicted), torch.cat(confidence)
