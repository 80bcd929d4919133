"""From images to classes: the head of a method among given names.

Shapes: N images, B images in a batch, C classes, D feature width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steadyclip.core.errors import ModelError, UsageError
from steadyclip.core.precision import Precision, arithmetic
from steadyclip.data import read_image
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
        precision: Precision = "fp32",
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
        self._texts = {}
        if not self.planner.conditional:
            f = self.planner.features(self.names, self.templates, None, scoring=True)
            with evaluating(model):
                self.planner.fill(f, [read for read in self.reads if read.tower == "text"])
            self._texts = f.raw

    def logits(self, rows: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C) from raw outputs of the image tower by name, "feature" (B, D) among them."""
        device = self.model.device
        known = {read: rows[read.what].to(device) for read in self.reads if read.tower == "image"}
        labels_B = torch.zeros(len(rows["feature"]), dtype=torch.long, device=device)
        batch = Batch(labels_B, known={**self._texts, **known})
        f = self.planner.features(self.names, self.templates, batch, scoring=True)
        with evaluating(self.model):
            self.planner.fill(f, self.reads)
            return f.logits()

    def predict(self, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Predicted class (N,) and its softmax probability (N,) of each image, on the CPU."""
        size = _CONDITIONAL if self.planner.conditional else _AT_ONCE
        predicted, confidence = [], []
        for start in range(0, len(rows["feature"]), size):
            part = {what: values[start : start + size] for what, values in rows.items()}
            best_B = self.logits(part).softmax(dim=1).max(dim=1)
            predicted.append(best_B.indices.cpu())
            confidence.append(best_B.values.cpu())
        return torch.cat(predicted), torch.cat(confidence)


@dataclass(frozen=True)
class Prediction:
    """The best names for one image, best first, with the softmax over all names."""

    path: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


def predict(
    model: DualEncoder,
    method: Method,
    paths: Sequence[str | Path],
    names: Sequence[str],
    templates: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 64,
) -> list[Prediction]:
    """One prediction for each image, in order.

    Args:
        names: classes to choose among; a method that cannot name new classes takes only those it was trained on.
        templates: prompts with ``{}`` for the name.
        top: how many names to give, at most all of them.

    Raises:
        DataError: an image is not there or cannot be read.
        NoHead: the method cannot classify among these names.
    """
    scorer, found = Scorer(model, method, names, templates), []
    for start in range(0, len(paths), batch_size):
        part = paths[start : start + batch_size]
        images_BCHW = torch.stack([model.preprocess(read_image(path)) for path in part])
        with evaluating(model):
            probabilities_BC = scorer.logits(model.run("image", images_BCHW)).softmax(dim=-1)
        best_BK = probabilities_BC.topk(min(top, len(names)))
        for path, values_K, labels_K in zip(part, best_BK.values.tolist(), best_BK.indices.tolist(), strict=True):
            found.append(Prediction(str(path), tuple(str(names[i]) for i in labels_K), tuple(values_K)))
    return found
