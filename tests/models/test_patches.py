"""Features of patches: of the same pass as the image's feature, on the same way, in the order of the pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from steadyclip.models import DualEncoder

from .conftest import attach_everywhere

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_the_image_feature_is_that_of_encode_image(model: DualEncoder) -> None:
    image_BD, patch_BYXD = model.encode_patches(PIXELS)
    assert torch.equal(image_BD, model.encode_image(PIXELS))
    assert patch_BYXD.shape == (3, 4, 4, model.embed_dim)
    assert patch_BYXD.dtype == torch.float32
    torch.testing.assert_close(patch_BYXD.norm(dim=-1), torch.ones(3, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        assert all(x.dtype == torch.float32 for x in model.encode_patches(PIXELS))


@torch.no_grad()
def test_a_patch_that_is_changed_changes_most(model: DualEncoder) -> None:
    """Rows and columns are not swapped."""
    other = PIXELS.clone()
    other[:, :, 8:16, 24:32] = 3.0
    _, before = model.encode_patches(PIXELS)
    _, after = model.encode_patches(other)
    change_BYX = (before - after).norm(dim=-1)
    assert change_BYX.flatten(1).argmax(1).tolist() == [1 * 4 + 3] * 3


@torch.no_grad()
def test_without_adapters_and_without_training(model: DualEncoder) -> None:
    before = model.encode_patches(PIXELS)
    attach_everywhere(model)
    assert not torch.equal(model.encode_patches(PIXELS)[1], before[1])
    with model.frozen():
        assert all(torch.equal(a, b) for a, b in zip(model.encode_patches(PIXELS), before, strict=True))
    model.detach_all()
    model.keep_frozen_copy()
    for parameter in model.network.parameters():
        parameter.mul_(1.1)
    with model.frozen():
        assert all(torch.equal(a, b) for a, b in zip(model.encode_patches(PIXELS), before, strict=True))


@torch.no_grad()
def test_a_patch_takes_the_way_of_the_image(model: DualEncoder) -> None:
    """CLIP: if a patch token stood in the place of the class token. SigLIP: if it were the only token."""
    network: Any = model.network
    _, patch_BYXD = model.encode_patches(PIXELS)
    if model.family == "clip":
        tokens_BNE = network.vision_model(pixel_values=PIXELS).last_hidden_state
        expected = network.visual_projection(network.vision_model.post_layernorm(tokens_BNE[:, 6]))
    elif model.family == "open_clip":
        seen = []
        handle = network.visual.transformer.register_forward_hook(lambda _, __, tokens: seen.append(tokens))
        model.encode_image(PIXELS)
        handle.remove()
        expected = network.visual.ln_post(seen[0][:, 6]) @ network.visual.proj
    else:
        tokens_BNE = network.vision_model(pixel_values=PIXELS).last_hidden_state
        expected = network.vision_model.head(tokens_BNE[:, 5:6])
    torch.testing.assert_close(patch_BYXD[:, 1, 1], F.normalize(expected, dim=-1), atol=1e-6, rtol=0)
