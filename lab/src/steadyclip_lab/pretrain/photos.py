"""Augmentation of whole batches of photos: pretraining sees every image many times, decoded once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def photos(images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Random resized crop (half to all of the area), flip, brightness and contrast. Pixels in [0, 1], in and out."""
    B = len(images_B3HW)
    scale_B = torch.rand(B, generator=generator).mul(0.5).add(0.5).sqrt()
    flip_B = torch.randint(0, 2, (B,), generator=generator) * 2.0 - 1.0
    room_B = 1 - scale_B
    shift_B2 = (torch.rand(B, 2, generator=generator) * 2 - 1) * room_B[:, None]
    theta_B23 = torch.zeros(B, 2, 3)
    theta_B23[:, 0, 0], theta_B23[:, 1, 1] = scale_B * flip_B, scale_B
    theta_B23[:, :, 2] = shift_B2
    images_B3HW = _warp(images_B3HW, theta_B23)
    contrast_B111 = _uniform(generator, (B, 1, 1, 1), 0.7, 1.3).to(images_B3HW.device)
    brightness_B111 = _uniform(generator, (B, 1, 1, 1), -0.2, 0.2).to(images_B3HW.device)
    return ((images_B3HW - 0.5) * contrast_B111 + 0.5 + brightness_B111).clamp(0, 1)


def _warp(images_B3HW: Tensor, theta_B23: Tensor) -> Tensor:
    grid_BHW2 = F.affine_grid(theta_B23.to(images_B3HW.device), list(images_B3HW.shape), align_corners=False)
    return F.grid_sample(images_B3HW, grid_BHW2, padding_mode="border", align_corners=False)


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low
