"""Staying near a teacher's predictions.

B images, C classes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl_from(teacher_BC: Tensor, student_BC: Tensor) -> Tensor:
    """KL(teacher || student) between the softmaxes of two sets of logits, mean over images, in float32.

    No gradient flows into the teacher. It is 0 where both agree; its gradient with respect to the student's logits is
    (softmax(student) - softmax(teacher)) / B.

    Source: Kullback and Leibler 1951; as a distillation loss at temperature 1, Hinton et al. 2015.
    """
    teacher, student = (F.log_softmax(logits.float(), dim=-1) for logits in (teacher_BC.detach(), student_BC))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
