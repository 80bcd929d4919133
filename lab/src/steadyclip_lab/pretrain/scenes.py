"""Drawings in many states of the world: a CLIP has seen the web, not drawings on plain paper alone.

Works on whole batches of drawings with an alpha channel, so that each is shown anew at every step. Directions carry
meaning ("arrow left"), so nothing is mirrored.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SHARES = {"plain": 0.30, "wild": 0.22, "clutter": 0.18, "sketch": 0.16, "night": 0.14}
"""Of the five kinds of scene: plain grounds, textured grounds, strangers behind, drawn by hand, dark and blurred."""
STRANGERS = 3
"""Other drawings behind the one that is named, in clutter."""


def scenes(drawings_B4HW: Tensor, generator: torch.Generator) -> Tensor:
    """Shows each drawing in a scene: the first ones of the batch on plain grounds, the next in the wild, and so on.

    Args:
        drawings_B4HW: colors and alpha in [0, 1], in an order of chance; a drawing whose visible pixels are black takes
            an ink.
        generator: fixes everything that is drawn by chance.

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    shown, start, share = [], 0, 0.0
    for kind in SHARES:
        share += SHARES[kind]
        stop = round(share * len(drawings_B4HW))
        if stop > start:
            shown.append(_scene(kind, drawings_B4HW[start:stop], generator))
        start = stop
    return torch.cat(shown)


def _scene(kind: str, drawings_B4HW: Tensor, generator: torch.Generator) -> Tensor:
    dice = _Dice(len(drawings_B4HW), generator, drawings_B4HW.device)
    size = drawings_B4HW.shape[-1]
    colored_B111 = (drawings_B4HW[:, :3] * drawings_B4HW[:, 3:]).amax((1, 2, 3), keepdim=True) > 0.1
    drawings_B4HW = torch.where(colored_B111, drawings_B4HW, _strokes(drawings_B4HW, dice))
    large = kind in ("plain", "sketch")
    width_B111 = dice.uniform(0.66, 1.0) if large else dice.uniform(0.4, 0.92)
    wobble_B2HW = _smooth(dice, (5, 9), 2, size) * 0.06 if kind == "sketch" else None
    shown_B4HW = _placed(drawings_B4HW, dice, width_B111, degrees=18, wobble_B2HW=wobble_B2HW)
    color_B3HW, alpha_B1HW = shown_B4HW[:, :3], shown_B4HW[:, 3:]
    if kind == "sketch":  # most pencils leave holes
        whole_B1HW = (dice.noise(1, size) > dice.uniform(0.05, 0.3)) | ~dice.chance(0.7)
        alpha_B1HW = alpha_B1HW * whole_B1HW

    tint_B311 = dice.uniform(-0.2, 0.2, channels=3) * dice.chance(0.75)
    if kind == "night":
        ground_B3HW = _smooth(dice, (4, 13), 1, size).abs() * 0.24 + dice.uniform(0, 0.06, channels=3)
        ink_B311 = dice.uniform(0.38, 0.62) + tint_B311 * 0.3
        color_B3HW = color_B3HW * dice.uniform(0.35, 0.6)
    else:
        # a dark ink on a light ground or the reverse; drawings in color and sketches stand on light grounds only
        light_B111 = dice.chance(0.65) | colored_B111 | torch.tensor(kind == "sketch", device=dice.device)
        ground_B3HW = _ground(dice, light_B111, size, flat=large)
        ink_B311 = torch.where(light_B111, dice.uniform(0, 0.35), dice.uniform(0.65, 1)) + tint_B311
    if kind == "clutter":
        ground_B3HW = _crowd(ground_B3HW, drawings_B4HW, dice)
    color_B3HW = torch.where(colored_B111, color_B3HW, ink_B311)
    images_B3HW = ground_B3HW + (color_B3HW - ground_B3HW) * alpha_B1HW
    if kind in ("night", "wild"):
        blur_B111 = dice.uniform(0.4, 1) if kind == "night" else dice.uniform(0, 1) * dice.chance(0.3)
        images_B3HW = images_B3HW + (_blurred(images_B3HW) - images_B3HW) * blur_B111
    return images_B3HW.clamp(0, 1)


class _Dice:
    """Random numbers for a batch: drawn on the CPU by one generator, so that the device does not change them."""

    def __init__(self, batch: int, generator: torch.Generator, device: torch.device) -> None:
        self.batch, self.generator, self.device = batch, generator, device

    def uniform(self, low: float, high: float, channels: int = 1) -> Tensor:
        values = torch.rand(self.batch, channels, 1, 1, generator=self.generator)
        return (values * (high - low) + low).to(self.device)

    def chance(self, share: float) -> Tensor:
        return self.uniform(0, 1) < share

    def noise(self, channels: int, side: int) -> Tensor:
        return torch.rand(self.batch, channels, side, side, generator=self.generator).to(self.device)


def _strokes(drawings_B4HW: Tensor, dice: _Dice) -> Tensor:
    """Thinner or thicker strokes, or the contour alone, for about two in five."""
    alpha_B1HW = drawings_B4HW[:, 3:]
    thicker_B1HW = F.max_pool2d(alpha_B1HW, 3, 1, 1)
    thinner_B1HW = -F.max_pool2d(-alpha_B1HW, 3, 1, 1)
    kind_B111 = dice.uniform(0, 1)
    changed_B1HW = torch.where(
        kind_B111 < 0.12, thinner_B1HW, torch.where(kind_B111 < 0.28, thicker_B1HW, thicker_B1HW - thinner_B1HW)
    )
    blend_B111 = torch.where(kind_B111 < 0.28, dice.uniform(0, 1), 1.0) * (kind_B111 < 0.4)
    return torch.cat([drawings_B4HW[:, :3], alpha_B1HW + (changed_B1HW - alpha_B1HW) * blend_B111], 1)


def _placed(
    drawings_B4HW: Tensor, dice: _Dice, size_B111: Tensor, degrees: float, wobble_B2HW: Tensor | None = None
) -> Tensor:
    """The drawings at a share ``size_B111`` of the width, turned, anywhere that they fit."""
    angle_B = dice.uniform(-degrees, degrees).flatten() * (math.pi / 180)
    size_B = size_B111.flatten()
    theta_B23 = torch.zeros(dice.batch, 2, 3, device=dice.device)
    theta_B23[:, 0, 0] = theta_B23[:, 1, 1] = torch.cos(angle_B) / size_B
    theta_B23[:, 1, 0] = torch.sin(angle_B) / size_B
    theta_B23[:, 0, 1] = -theta_B23[:, 1, 0]
    room_B1 = (1 - size_B)[:, None] / size_B[:, None]
    shift_B2 = dice.uniform(-1, 1, channels=2).flatten(1) * room_B1
    theta_B23[:, :, 2] = shift_B2
    grid_BHW2 = F.affine_grid(theta_B23, list(drawings_B4HW.shape), align_corners=False)
    if wobble_B2HW is not None:
        grid_BHW2 = grid_BHW2 + wobble_B2HW.permute(0, 2, 3, 1)
    return F.grid_sample(drawings_B4HW, grid_BHW2, padding_mode="zeros", align_corners=False)


def _smooth(dice: _Dice, sides: tuple[int, ...], channels: int, size: int) -> Tensor:
    """Noise of about [-1, 1] that changes slowly: coarse noise drawn large, the finer the fainter."""
    total_BCHW = torch.zeros(dice.batch, channels, size, size, device=dice.device)
    weight = 1.0
    for side in sides:
        coarse = F.interpolate(dice.noise(channels, side) * 2 - 1, size=size, mode="bilinear", align_corners=False)
        total_BCHW += weight * coarse
        weight /= 2
    return total_BCHW


def _ground(dice: _Dice, light_B111: Tensor, size: int, flat: bool) -> Tensor:
    """One color, or two of one brightness, mixed by noise, stripes, dots, checks or a gradient."""
    ends = [
        torch.where(light_B111, dice.uniform(0.55, 1, channels=3), dice.uniform(0, 0.45, channels=3)) for _ in range(2)
    ]
    if flat:
        return ends[0].expand(-1, -1, size, size)
    across = torch.linspace(0, 1, size, device=dice.device)
    y_HW, x_HW = torch.meshgrid(across, across, indexing="ij")
    angle_B111, period_B111 = dice.uniform(0, 2 * math.pi), dice.uniform(4 / 64, 14 / 64)
    u_B1HW = x_HW * torch.cos(angle_B111) + y_HW * torch.sin(angle_B111)
    v_B1HW = y_HW * torch.cos(angle_B111) - x_HW * torch.sin(angle_B111)
    wave_u, wave_v = (torch.sin(2 * math.pi * axis / period_B111) for axis in (u_B1HW, v_B1HW))
    kind_B111 = dice.uniform(0, 1)
    noise_B1HW = (_smooth(dice, (4, 9, 24), 1, size) * 0.8 + 0.5).clamp(0, 1)
    mix_B1HW = torch.where(kind_B111 < 3 / 7, noise_B1HW, (wave_u > 0).float())
    mix_B1HW = torch.where(kind_B111 > 4 / 7, (wave_u + wave_v > 0.9).float(), mix_B1HW)
    mix_B1HW = torch.where(kind_B111 > 5 / 7, (wave_u * wave_v > 0).float(), mix_B1HW)
    mix_B1HW = torch.where(kind_B111 > 6 / 7, (u_B1HW * 0.7 + 0.5).clamp(0, 1), mix_B1HW)
    return ends[0] + (ends[1] - ends[0]) * mix_B1HW


def _crowd(ground_B3HW: Tensor, drawings_B4HW: Tensor, dice: _Dice) -> Tensor:
    """Small drawings of the same batch, in any color, half transparent, on the ground."""
    for number in range(1, STRANGERS + 1):
        others_B4HW = _placed(drawings_B4HW.roll(number, 0), dice, dice.uniform(0.19, 0.36), degrees=180)
        opacity_B111 = dice.uniform(0.35, 0.85) * dice.chance(0.8)
        ground_B3HW = ground_B3HW + (dice.uniform(0, 1, channels=3) - ground_B3HW) * others_B4HW[:, 3:] * opacity_B111
    return ground_B3HW


def _blurred(images_B3HW: Tensor) -> Tensor:
    """A binomial blur of about one pixel."""
    row = torch.tensor([1.0, 4, 6, 4, 1], device=images_B3HW.device) / 16
    kernel = (row[:, None] * row)[None, None].expand(3, 1, 5, 5)
    return F.conv2d(F.pad(images_B3HW, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
