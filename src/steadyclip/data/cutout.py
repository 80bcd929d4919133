"""Cutout: a square of the image is set to the mean color, so that few samples show more.

Works on batches of normalized pixels, where the mean color is 0.

Shapes: B images, C channels, H W pixels, Y X rows and columns of patches.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cutout(images_BCHW: Tensor, side: float, seeds: Sequence[object]) -> Tensor:
    """A copy with one square cut from each image, its center anywhere in the image; what lies outside is not cut.

    Args:
        images_BCHW: normalized pixels.
        side: of the square, as a share of the image's shorter side.
        seeds: of the draw of each image, so that it does not depend on the device, or on the rest of the batch.

    Source: DeVries and Taylor 2017 (Cutout), section 3.2.
    """
    height, width = images_BCHW.shape[-2:]
    pixels = _pixels(side, height, width)
    draws = [random.Random(str(seed)) for seed in seeds]
    center_B2 = torch.tensor([[draw.randrange(height), draw.randrange(width)] for draw in draws]).reshape(-1, 2)
    return cut_squares(images_BCHW, center_B2.to(images_BCHW.device) - pixels // 2, pixels)


def attentive_cutout(images_BCHW: Tensor, similarity_BYX: Tensor, side: float) -> Tensor:
    """A copy where the square with the highest mean of ``similarity_BYX`` is cut from each image.

    The square moves in steps of one patch and stays inside the image. Nothing is random.

    Args:
        images_BCHW: normalized pixels.
        similarity_BYX: how much each patch looks like what shall be hidden.
        side: of the square, as a share of the image's shorter side; rounded to whole patches, at least one.

    Source: our reading of the attentive CutOut of OrthSR (arXiv 2407.08374 v3): the region most similar to the
    true class is cut, but how a region is made from patches is not on record.
    """
    height, width = images_BCHW.shape[-2:]
    rows, columns = similarity_BYX.shape[-2:]
    patch = height / rows
    window = max(1, min(rows, columns, round(_pixels(side, height, width) / patch)))
    mean_BYX = F.avg_pool2d(similarity_BYX.float().unsqueeze(1), window, stride=1).squeeze(1)
    place_B = mean_BYX.flatten(1).argmax(1)
    corner_B2 = torch.stack([place_B // mean_BYX.shape[2], place_B % mean_BYX.shape[2]], 1)
    return cut_squares(images_BCHW, (corner_B2 * patch).round().long(), round(window * patch))


def cut_squares(images_BCHW: Tensor, corner_B2: Tensor, pixels: int) -> Tensor:
    """A copy with 0 in a square of ``pixels`` from the (row, column) in ``corner_B2`` on, as far as it is inside."""
    height, width = images_BCHW.shape[-2:]
    device = images_BCHW.device
    row_H, column_W = torch.arange(height, device=device), torch.arange(width, device=device)
    row_BH = (row_H >= corner_B2[:, :1]) & (row_H < corner_B2[:, :1] + pixels)
    column_BW = (column_W >= corner_B2[:, 1:]) & (column_W < corner_B2[:, 1:] + pixels)
    inside_B1HW = (row_BH.unsqueeze(2) & column_BW.unsqueeze(1)).unsqueeze(1)
    return images_BCHW.masked_fill(inside_B1HW, 0.0)


def _pixels(side: float, height: int, width: int) -> int:
    return max(1, round(side * min(height, width)))
