"""Classifiers over image features, and the one that is made from class names.

Shapes: B images in a batch, C classes, D feature width, T templates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from steadyclip.core.errors import UsageError

if TYPE_CHECKING:
    from steadyclip.models import DualEncoder

# Prompts per forward pass: 1000 names by 80 templates must not become one batch of 80,000 texts.
_CHUNK = 256


@dataclass(frozen=True)
class Head:
    """A linear classifier over L2-normalized image features.

    Attributes:
        weight_CD: one row per class, shape (C, D).
        bias_C: added to the logits, shape (C,), or None.
        scale: multiplies the products before the bias; the logit scale of the model, 1 for a plain linear layer.
        classes: the C names, in the order of the rows.
    """

    weight_CD: Tensor
    bias_C: Tensor | None
    scale: Tensor | float
    classes: tuple[str, ...]

    def logits(self, features_BD: Tensor) -> Tensor:
        """Class scores (B, C) of image features (B, D)."""
        logits_BC = self.scale * (features_BD @ self.weight_CD.T)
        return logits_BC if self.bias_C is None else logits_BC + self.bias_C


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, all templates of the first name first: C * T texts.

    Raises:
        UsageError: no name, no template, or a template without ``{}``.
    """
    if not names or not templates:
        raise UsageError(f"a head needs class names and templates; there are {len(names)} and {len(templates)}.")
    for template in templates:
        if "{}" not in template:
            raise UsageError(f"template {template!r} has no {{}} where the class name goes.")
    return [template.replace("{}", name) for name in names for template in templates]


def text_head(model: DualEncoder, names: Sequence[str], templates: Sequence[str]) -> Head:
    """Zero-shot classifier: for each name the mean of its normalized text features over the templates, normalized.

    Source: prompt ensembling in embedding space, Radford et al. 2021 (CLIP), section 3.1.4.

    Raises:
        UsageError: no name, no template, or a template without ``{}``.
    """
    texts = prompts(names, templates)
    features_MD = torch.cat([model.encode_text(texts[i : i + _CHUNK]) for i in range(0, len(texts), _CHUNK)])
    mean_CD = features_MD.unflatten(0, (len(names), len(templates))).mean(dim=1)
    bias_C = model.logit_bias.float().expand(len(names))
    return Head(F.normalize(mean_CD, dim=-1), bias_C, model.logit_scale.float(), tuple(names))
