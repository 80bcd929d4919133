"""Images against texts, each pair against the rest of its batch, over all processes.

B pairs in the batch of this process, G in those of all processes together, D feature width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from steadyclip.models import DualEncoder


def info_nce(model: DualEncoder, image_BD: Tensor, text_BD: Tensor, labels_B: Tensor | None = None) -> Tensor:
    """(CE(s F G^T, diag) + CE(s G F^T, diag)) / 2 for features F of images and G of their texts; a scalar.

    s is the model's logit scale and takes part in the gradient. The negatives of a pair are the other pairs of the
    batch. Where several processes share the batch, features are gathered with their gradients: each process returns the
    mean over its own pairs, and the mean of those weighted by their numbers is the loss of the whole batch, gradient
    included.

    Args:
        model: whose logit scale (and bias, which a softmax does not see) is used.
        image_BD: image features of length 1.
        text_BD: text features of length 1; row i belongs to image i.
        labels_B: with them, other pairs of the same class are no negatives.

    Source: CLIP (Radford et al. 2021, figure 3) in pretraining; FLYP (Goyal et al. 2023, section 3) in fine-tuning.
    """
    sizes = _sizes(image_BD)
    image_GD, text_GD = _gather(torch.cat([image_BD, text_BD], dim=1), sizes).chunk(2, dim=1)
    start = sum(sizes[: _rank(sizes)])
    place_B = torch.arange(start, start + len(image_BD), device=image_BD.device)
    by_image_BG = model.logits(image_BD, text_GD)
    by_text_BG = model.logits(image_GD, text_BD).T
    if labels_B is not None:
        same_BG = labels_B[:, None] == _gather(labels_B[:, None], sizes)[:, 0]
        same_BG.scatter_(1, place_B[:, None], False)  # a pair's own text is what it has to find
        by_image_BG, by_text_BG = (logits.masked_fill(same_BG, -torch.inf) for logits in (by_image_BG, by_text_BG))
    return (F.cross_entropy(by_image_BG, place_B) + F.cross_entropy(by_text_BG, place_B)) / 2


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank(sizes: list[int]) -> int:
    return dist.get_rank() if len(sizes) > 1 else 0


def _sizes(rows: Tensor) -> list[int]:
    """How many rows each process has: not always the same number, where an image could not be read."""
    if _processes() == 1:
        return [len(rows)]
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(_processes())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    return [int(size) for size in sizes]


def _gather(rows: Tensor, sizes: list[int]) -> Tensor:
    """The rows of all processes, in the order of their ranks; gradients flow back to the process of each row."""
    if len(sizes) == 1:
        return rows
    gathered: Any = _Gather.apply(rows, sizes)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int]) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.sizes = sizes
        padded = F.pad(rows, (0, 0, 0, max(sizes) - len(rows))).contiguous()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gradient = gradient.clone()  # what autograd hands over is not ours to change
        dist.all_reduce(gradient)  # each process has losses that depend on these rows
        return gradient.split(ctx.sizes)[dist.get_rank()], None
