"""MMRL's tokens against explicit concatenation: blocks called one by one, one image or text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from steadyclip.adapters import SpaceMaps, SpaceTokens
from steadyclip.models import DualEncoder
from steadyclip.models.testing import installed_families, tiny

from . import prompt_reference as reference

FAMILIES = installed_families()
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
NAMES = ["cat.", "sea lion.", "a"]


def adapted(family: str, first_block: int) -> tuple[DualEncoder, SpaceMaps]:
    """A tiny model whose maps are no longer copies of one, as after a training."""
    model = tiny(family)
    SpaceTokens(length=3, space=8, first_block=first_block).attach(model)
    maps = model.adapters["space"]
    assert isinstance(maps, SpaceMaps)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in maps.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model, maps


def through_blocks(
    model: DualEncoder, maps: SpaceMaps, x_1NW: Tensor, tower: Any, at: int, keys_N: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The tower's own tokens (1, N, W) and the learned ones (1, K, W) behind all blocks, those standing from ``at``."""
    own, first = maps.maps[tower.name], maps.first[tower.name]
    for index in range(len(tower.blocks)):
        if index >= first:
            new_KW = maps.tokens @ own[index - first].weight.T + own[index - first].bias  # type: ignore[index]
            rest = x_1NW[:, at:] if index == first else x_1NW[:, at + 3 :]
            x_1NW = torch.cat([x_1NW[:, :at], new_KW[None], rest], dim=1)
        if keys_N is not None and index == first:
            keys_N = torch.cat([keys_N[:at], torch.ones(3, dtype=torch.bool), keys_N[at:]])
        x_1NW = reference.through_block(model, x_1NW, tower, index, keys_N)
    return torch.cat([x_1NW[:, :at], x_1NW[:, at + 3 :]], dim=1), x_1NW[:, at : at + 3]


@pytest.mark.parametrize("first_block", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_images_equal_explicit_concatenation(family: str, first_block: int) -> None:
    """The learned tokens stand behind the first one, as in the authors' code: the order changes nothing."""
    model, maps = adapted(family, first_block)
    output = model.run("image", PIXELS)
    maps.enabled = False
    for b, image_CHW in enumerate(PIXELS):
        x_1NW, norm = reference.image_start(model, image_CHW)
        own_1NW, learned_1KW = through_blocks(model, maps, norm(x_1NW), model.image_tower, 1, None)
        torch.testing.assert_close(output["feature"][b], reference.image_features(model, own_1NW)[0], atol=1e-5, rtol=0)
        network: Any = model.network
        norm = network.visual.ln_post if family == "open_clip" else network.vision_model.post_layernorm
        space_D = torch.stack([norm(token_W) @ maps.out for token_W in learned_1KW[0]]).sum(0) / 3
        torch.testing.assert_close(output["space"][b, 0], space_D, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("first_block", [1, 2])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_texts_equal_explicit_concatenation(family: str, first_block: int) -> None:
    model, maps = adapted(family, first_block)
    tokens = model.tokenize(NAMES)
    features_MD = model.run("text", tokens)["feature"]
    maps.enabled = False
    start = int(family in ("clip", "open_clip"))
    for m, ids_N in enumerate(tokens["input_ids"]):
        keys_N = tokens["attention_mask"][m].bool() if "attention_mask" in tokens else None
        x_1NW = sum(reference.words(model, ids_N))[None]  # type: ignore[index]
        x_1NW, _ = through_blocks(model, maps, x_1NW, model.text_tower, start, keys_N)
        torch.testing.assert_close(features_MD[m], reference.text_read(model, x_1NW, ids_N), atol=1e-5, rtol=1e-5)
