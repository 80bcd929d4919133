"""Augmentation of whole batches on tensors: pretraining sees every image many times, decoded once."""

from __future__ import annotations

import math

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


def drawings(images_B3HW: Tensor, generator: torch.Generator) -> Tensor:
    """Stroke width, pose and colors of dark-on-light drawings. Pixels in [0, 1], in and out.

    Directions carry meaning ("arrow left"), so nothing is mirrored.
    """
    B, device = len(images_B3HW), images_B3HW.device
    kind_B111 = torch.rand(B, 1, 1, 1, generator=generator).to(device)
    blend_B111 = torch.rand(B, 1, 1, 1, generator=generator).to(device)
    thinner_B3HW = F.max_pool2d(images_B3HW, 3, 1, 1)
    thicker_B3HW = -F.max_pool2d(-images_B3HW, 3, 1, 1)
    contour_B3HW = 1 - (thinner_B3HW - thicker_B3HW)  # filled shapes as line drawings
    changed_B3HW = torch.where(kind_B111 < 0.35, thinner_B3HW, torch.where(kind_B111 < 0.5, thicker_B3HW, contour_B3HW))
    changed_B3HW = images_B3HW + (changed_B3HW - images_B3HW) * torch.where(
        kind_B111 < 0.5, blend_B111, torch.ones_like(blend_B111)
    )
    images_B3HW = torch.where(kind_B111 < 0.65, changed_B3HW, images_B3HW)

    angle_B = _uniform(generator, (B,), -15, 15) * (math.pi / 180)
    zoom_B = _uniform(generator, (B,), 0.95, 1.45)
    theta_B23 = torch.zeros(B, 2, 3)
    theta_B23[:, 0, 0] = theta_B23[:, 1, 1] = torch.cos(angle_B) * zoom_B
    theta_B23[:, 1, 0] = torch.sin(angle_B) * zoom_B
    theta_B23[:, 0, 1] = -theta_B23[:, 1, 0]
    theta_B23[:, :, 2] = _uniform(generator, (B, 2), -0.2, 0.2)
    images_B3HW = _warp(images_B3HW, theta_B23)

    ends_2B311 = torch.rand(2, B, 3, 1, 1, generator=generator).to(device)
    gray_B1111 = (torch.rand(B, 1, 1, 1, generator=generator) < 0.25).to(device)
    ends_2B311 = torch.where(gray_B1111, ends_2B311[:, :, :1], ends_2B311)
    ink_B311, ground_B311 = ends_2B311[0] * 0.42, 0.62 + ends_2B311[1] * 0.38
    swap_B111 = (torch.rand(B, 1, 1, 1, generator=generator) < 0.3).to(device)
    ink_B311, ground_B311 = torch.where(swap_B111, ground_B311, ink_B311), torch.where(swap_B111, ink_B311, ground_B311)
    return ink_B311 + (ground_B311 - ink_B311) * images_B3HW


def _warp(images_B3HW: Tensor, theta_B23: Tensor) -> Tensor:
    grid_BHW2 = F.affine_grid(theta_B23.to(images_B3HW.device), list(images_B3HW.shape), align_corners=False)
    return F.grid_sample(images_B3HW, grid_BHW2, padding_mode="border", align_corners=False)


def _uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low
