"""Classification among class prompts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from steadyclip.models import DualEncoder

if TYPE_CHECKING:
    from steadyclip.methods.base import Batch


def prompt_cross_entropy(model: DualEncoder, batch: Batch) -> Tensor:
    """CE(s cos(f_I, F_T), y): images against the class prompts, whose text features are computed once for the batch.

    Source: the zero-shot head of CLIP (Radford et al. 2021, section 3.1) used as the classifier in training.
    """
    logits_BC = model.logits(model.encode_image(batch.images_BCHW), model.encode_text(batch.prompts))
    return F.cross_entropy(logits_BC.float(), batch.labels_B)
