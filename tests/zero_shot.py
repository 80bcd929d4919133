"""Logits straight from the formula, to compare the heads with."""

from __future__ import annotations

from torch import Tensor

from steadyclip.models import DualEncoder


def zero_shot_logits(model: DualEncoder, image_BD: Tensor, text_CD: Tensor) -> Tensor:
    """Features of images and of classes -> (B, C) logits with the checkpoint's scale and bias."""
    return model.logit_scale * image_BD @ text_CD.T + model.logit_bias
