"""What every family promises through the one view."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from steadyclip.core.errors import ModelError
from steadyclip.models import DualEncoder, load
from steadyclip.models.testing import tiny
from zero_shot import zero_shot_logits

from .conftest import TEXTS, AddConstant, AddLowRank, attach_everywhere, features, same


def test_features_have_length_one_in_float32(model: DualEncoder) -> None:
    for value in features(model):
        assert value.dtype == torch.float32
        assert value.shape[1] == model.embed_dim
        assert torch.allclose(value.norm(dim=-1), torch.ones(len(value)), atol=1e-6)


def test_features_stay_float32_of_length_one_under_bfloat16(model: DualEncoder) -> None:
    exact = features(model)
    with torch.autocast("cpu", torch.bfloat16):
        rough = features(model)
    for value, reference in zip(rough, exact, strict=True):
        assert value.dtype == torch.float32
        assert torch.allclose(value.norm(dim=-1), torch.ones(len(value)), atol=1e-6)
        assert (value * reference).sum(-1).min() > 0.99
    assert not same(rough, exact)  # it did run in bfloat16


def test_padding_and_batch_size_change_nothing(model: DualEncoder) -> None:
    images, texts = features(model)
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = torch.cat([model.encode_image(image[None]) for image in pixels])
        assert torch.allclose(alone, images, rtol=0, atol=1e-6)
        alone = torch.cat([model.encode_text([text]) for text in TEXTS])
        assert torch.allclose(alone, texts, rtol=0, atol=1e-6)
        backwards = model.encode_text(TEXTS[::-1]).flip(0)
        assert torch.allclose(backwards, texts, rtol=0, atol=1e-6)


def test_texts_differ_and_are_cut_at_the_context_length(model: DualEncoder) -> None:
    with torch.no_grad():
        texts = model.encode_text(TEXTS)
        longer = model.encode_text(["a cat " * 50, "a cat " * 99])
    assert (texts @ texts.T - torch.eye(len(TEXTS))).abs().max() < 0.9999  # no two texts pool at the same token
    assert torch.equal(longer[0], longer[1])
    assert model.tokenize(TEXTS)["input_ids"].shape[1] <= 32


def test_one_text_is_a_batch_of_one(model: DualEncoder) -> None:
    assert torch.equal(model.encode_text("Dog"), model.encode_text(["Dog"]))


def test_logits_are_scaled_and_shifted_cosines(model: DualEncoder) -> None:
    images, texts = features(model)
    bias = 0.0 if model.family in ("clip", "open_clip") else -5.0
    expected = torch.exp(torch.tensor(3.0)) * (images @ texts.T) + bias
    assert model.logit_scale.shape == model.logit_bias.shape == ()
    assert torch.allclose(zero_shot_logits(model, images, texts), expected, atol=1e-5)


def test_a_seed_decides_the_weights(family: str) -> None:
    assert same(features(tiny(family)), features(tiny(family, seed=0)))
    assert tiny(family).weights_hash != tiny(family, seed=1).weights_hash


def test_the_random_generator_is_left_alone(family: str) -> None:
    state = torch.random.get_rng_state()
    tiny(family)
    assert torch.equal(state, torch.random.get_rng_state())


def test_towers_show_the_blocks(model: DualEncoder) -> None:
    for tower, name in ((model.image_tower, "image"), (model.text_tower, "text")):
        assert (tower.name, tower.width, len(tower.blocks)) == (name, 32, 2)
        for index, block in enumerate(tower.blocks):
            assert (block.index, block.num_heads) == (index, 2)
            assert (block.fc1.out_features, block.fc2.out_features) == (64, 32)
            # every part is the one that runs: changing it changes the features
            before = features(model)
            for part in (block.norm1, block.norm2, block.q, block.k, block.v, block.out, block.fc1, block.fc2):
                handle = part.register_forward_hook(lambda module, args, output: output.flip(-1))
                assert not same(features(model), before)
                handle.remove()


def test_a_block_is_a_hook_point_for_the_residual_stream(model: DualEncoder) -> None:
    first, second = model.image_tower.blocks
    seen = []
    handles = [
        first.module.register_forward_hook(lambda module, args, output: seen.append(output)),
        second.module.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
    ]
    features(model)
    for handle in handles:
        handle.remove()
    assert seen[0].shape[2] == 32
    assert torch.equal(seen[0], seen[1])


# ---- frozen


def test_frozen_switches_adapters_off_and_on_again(model: DualEncoder) -> None:
    pretrained = features(model)
    attach_everywhere(model)
    trained = features(model)
    assert not same(trained, pretrained, atol=1e-3)
    with model.frozen():
        assert same(features(model), pretrained)
        with model.frozen():
            assert same(features(model), pretrained)
        assert same(features(model), pretrained)
        assert not model.encode_text(["x"]).requires_grad
    assert same(features(model), trained)
    assert model.encode_text(["x"]).requires_grad


def test_frozen_restores_after_an_error_and_keeps_disabled_adapters_off(model: DualEncoder) -> None:
    adapter = AddLowRank(model.text_tower.blocks[0].q)
    model.attach("one", adapter)
    adapter.enabled = False
    with pytest.raises(KeyError), model.frozen():
        raise KeyError
    assert adapter.enabled is False
    assert torch.is_grad_enabled()


def test_frozen_has_no_dropout(model: DualEncoder) -> None:
    pretrained = features(model)
    block = model.image_tower.blocks[0].module
    block.add_module("noise", nn.Dropout(0.9))
    handle = block.register_forward_hook(lambda module, args, output: module.noise(output))
    model.train()
    with model.frozen():
        assert same(features(model), pretrained)
    assert block.noise.training
    assert model.network.training
    handle.remove()


def test_frozen_copy_survives_training_of_the_weights(model: DualEncoder) -> None:
    pretrained = features(model)
    scale, name = model.logit_scale.clone(), model.weights_hash
    model.requires_grad_(True)
    with pytest.raises(ModelError, match="keep_frozen_copy"), model.frozen():
        pass
    model.keep_frozen_copy()
    attach_everywhere(model)  # both at once
    with torch.no_grad():
        for value in model.network.parameters():
            value.add_(0.1)
    assert not same(features(model), pretrained, atol=1e-3)
    with model.frozen():
        assert same(features(model), pretrained)
        assert torch.equal(model.logit_scale, scale)
    assert not torch.equal(model.logit_scale, scale)
    assert model.weights_hash == name
    model._weights_hash = None
    assert model.weights_hash == name  # from the copy
    assert not any("frozen" in key for key in model.state_dict())
    model.to(torch.float64)
    assert model._frozen_copy is not None
    assert {value.dtype for value in model._frozen_copy.values()} == {torch.float64}


def test_gradients_reach_all_weights_of_both_towers(model: DualEncoder) -> None:
    model.keep_frozen_copy()
    model.requires_grad_(True)
    with model.frozen():
        frozen = features(model)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    images, texts = model.encode_image(pixels), model.encode_text(TEXTS)
    loss = zero_shot_logits(model, images, texts).square().mean() + (texts - frozen[1]).square().sum() + images.sum()
    loss.backward()
    without = [name for name, value in model.named_parameters() if value.grad is None]
    assert without == []


# ---- adapters


def test_detaching_leaves_no_trace(model: DualEncoder) -> None:
    def trace() -> tuple[object, ...]:
        hooks = [(name, len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()]
        return hooks, list(model.state_dict()), model._handles

    before, pretrained = copy.deepcopy(trace()), features(model)
    attach_everywhere(model)
    base = [name for name in model.state_dict() if name.startswith("network.")]
    assert base == before[1]  # the network's own names never change
    model.detach_all()
    assert trace() == before
    assert same(features(model), pretrained)


def test_adapter_keys_are_checked(model: DualEncoder) -> None:
    model.attach("one", AddLowRank(model.text_tower.blocks[0].q))
    with pytest.raises(ModelError, match="'one' for an adapter is wanted by two pieces"):
        model.attach("one", AddLowRank(model.text_tower.blocks[0].q))
    with pytest.raises(ModelError, match=r"'a.b' for an adapter is malformed"):
        model.attach("a.b", AddLowRank(model.text_tower.blocks[0].q))


def test_a_deep_copy_has_its_own_adapters_and_hooks(model: DualEncoder) -> None:
    pretrained = features(model)
    attach_everywhere(model)
    trained = features(model)
    twin = copy.deepcopy(model)
    assert same(features(twin), trained)
    with torch.no_grad():
        for value in twin.adapters.parameters():
            value.zero_()
    assert same(features(twin), pretrained)
    assert same(features(model), trained)
    twin.detach_all()
    assert twin.image_tower.blocks[0].q is not model.image_tower.blocks[0].q
    assert all(not module._forward_hooks for module in twin.modules())
    assert same(features(model), trained)


def test_merging_equals_the_forward_with_adapters(model: DualEncoder) -> None:
    name = model.weights_hash
    attach_everywhere(model)
    trained = features(model)
    model.merge_adapters()
    assert len(model.adapters) == 0
    assert same(features(model), trained, atol=1e-5)
    with model.frozen():
        assert same(features(model), trained, atol=1e-5)
    assert model.weights_hash != name


def test_an_adapter_without_a_merge_stops_before_anything_is_folded(model: DualEncoder) -> None:
    model.attach("first", AddLowRank(model.image_tower.blocks[0].q))
    model.attach("second", AddConstant(model.image_tower.blocks[0].module, 32))
    trained = features(model)
    with pytest.raises(ModelError, match="AddConstant cannot be merged"):
        model.merge_adapters()
    assert list(model.adapters) == ["first", "second"]
    assert same(features(model), trained)


# ---- on disk


def test_saving_and_loading_is_exact(model: DualEncoder, tmp_path: Path) -> None:
    with torch.no_grad():
        for value in model.network.parameters():
            value.mul_(1.01)
    model.save(tmp_path / "a" / "b")
    twin = load(tmp_path / "a" / "b")
    assert same(features(twin), features(model))
    assert (twin.family, twin.preprocess) == (model.family, model.preprocess)
    assert twin.weights_hash == model.weights_hash
    for name, ids in model.tokenize(TEXTS).items():
        assert torch.equal(ids, twin.tokenize(TEXTS)[name])
    assert {p.suffix for p in (tmp_path / "a" / "b").iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}


def test_saving_with_adapters_is_refused(model: DualEncoder, tmp_path: Path) -> None:
    model.attach("one", AddLowRank(model.text_tower.blocks[0].q))
    with pytest.raises(ModelError, match=r"one.*merge them first"):
        model.save(tmp_path)


def test_trained_state_round_trip(model: DualEncoder, folder: Path) -> None:
    attach_everywhere(model)
    model.text_tower.blocks[1].fc1.requires_grad_(True)
    with torch.no_grad():
        model.text_tower.blocks[1].fc1.weight.add_(1.0)
    state = model.trained_state()
    assert sum(name.startswith("network.") for name in state) == 2
    assert sum(name.startswith("adapters.") for name in state) == 2 * 24
    assert all(value.device.type == "cpu" and not value.requires_grad for value in state.values())
    trained = features(model)
    other = load(folder)
    attach_everywhere(other)
    other.text_tower.blocks[1].fc1.requires_grad_(True)
    with torch.no_grad():
        for value in other.adapters.parameters():
            value.zero_()
    other.load_trained_state(state)
    assert same(features(other), trained)
    next(iter(state.values())).zero_()  # a copy: the model does not notice
    assert same(features(model), trained)


def test_trained_state_is_strict(model: DualEncoder) -> None:
    model.attach("one", AddLowRank(model.text_tower.blocks[0].q))
    before = model.trained_state()
    wrong = {"adapters.one.down": torch.zeros(3, 2), "adapters.two.up": torch.zeros(1)}
    with pytest.raises(ModelError) as caught:
        model.load_trained_state(wrong)
    message = str(caught.value)
    assert "missing: adapters.one.up" in message
    assert "unknown: adapters.two.up" in message
    assert re.search(r"adapters.one.down \(3, 2\) instead of \(32, 2\)", message)
    assert "\n" not in message
    assert all(torch.equal(value, before[name]) for name, value in model.trained_state().items())


def test_the_weights_hash_ignores_adapters_and_sees_one_weight(model: DualEncoder, folder: Path) -> None:
    name = model.weights_hash
    assert re.fullmatch("[0-9a-f]{16}", name)
    adapted = load(folder)
    attach_everywhere(adapted)
    assert adapted.weights_hash == name
    changed = load(folder)
    with torch.no_grad():
        changed.image_tower.blocks[0].q.bias[3] += 1e-4
    assert changed.weights_hash != name
