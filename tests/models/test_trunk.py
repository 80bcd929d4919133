"""Passes of several states over the same images share the blocks below what is attached, and give the same."""

from __future__ import annotations

import pytest
import torch

from steadyclip.adapters import Bottleneck, LowRank, Prompts, Weights
from steadyclip.core.precision import arithmetic
from steadyclip.methods import get_method
from steadyclip.models.testing import installed_families, tiny
from steadyclip.models.trunk import Trunk, untouched
from steadyclip.testing import NAMES, TEMPLATES, attach, batch
from steadyclip.training.step import Step

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", installed_families())
def test_frozen_and_tuned_features_are_those_of_passes_of_their_own(family: str) -> None:
    model = tiny(family)
    Bottleneck(first_block=2).attach(model)
    for parameter in model.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen: list[int] = []
    first = model.image_tower.blocks[0].fc1
    with torch.no_grad():
        tuned = model.run("image", IMAGES)["feature"]
        with model.frozen():
            frozen = model.run("image", IMAGES)["feature"]
        trunk = Trunk(model.image_tower, untouched(model, model.image_tower))
        handle = first.register_forward_hook(lambda *_: seen.append(1))
        with model.frozen(), trunk.shared():
            assert torch.equal(model.run("image", IMAGES)["feature"], frozen)
        with trunk.shared():
            assert torch.equal(model.run("image", IMAGES)["feature"], tuned)
        handle.remove()
        assert len(seen) == 1
        assert torch.equal(model.run("image", IMAGES)["feature"], tuned)  # nothing is left behind
    assert not torch.equal(frozen, tuned)


@pytest.mark.parametrize(
    ("spec", "depth"),
    [(Bottleneck(first_block=2), 1), (LowRank(), 0), (Weights(), 0), (Prompts("image", length=1), 0)],
)
def test_what_is_below_everything_attached(spec, depth: int) -> None:
    model = tiny("clip")
    spec.attach(model)
    assert untouched(model, model.image_tower) == depth


def test_nothing_attached_and_hooks_of_others() -> None:
    model = tiny("clip")
    assert untouched(model, model.image_tower) == 0
    Bottleneck(first_block=2).attach(model)
    model.network.vision_model.pre_layrnorm.register_forward_hook(lambda *_: None)
    assert untouched(model, model.image_tower) == 0


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    model = tiny("clip")
    Bottleneck(first_block=2).attach(model)
    trunk = Trunk(model.image_tower, 1)
    with torch.no_grad(), trunk.shared():
        expected = model.run("image", IMAGES)["feature"]
    with pytest.raises(ZeroDivisionError), trunk.shared():
        raise ZeroDivisionError
    with torch.no_grad():
        assert torch.equal(model.run("image", IMAGES)["feature"], expected)
        assert not torch.equal(model.run("image", IMAGES.flip(0))["feature"], expected)


def test_another_arithmetic_takes_a_pass_of_its_own() -> None:
    model = tiny("clip")
    Bottleneck(first_block=2).attach(model)
    trunk = Trunk(model.image_tower, 1)
    with torch.no_grad(), arithmetic(model.device, "bf16"), trunk.shared():
        rough = model.run("image", IMAGES)["feature"]
    with torch.no_grad(), trunk.shared():
        found = model.run("image", IMAGES)["feature"]
    with torch.no_grad():
        assert torch.equal(found, model.run("image", IMAGES)["feature"])
    assert not torch.equal(found, rough)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_of_a_step_is_the_same(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method = get_method("dra", {"first_block": 2})
    found = []
    for shared in (True, False):
        if not shared:
            monkeypatch.setattr("steadyclip.methods.planner.untouched", lambda *_: 0)
        model = tiny("clip")
        attach(method, model)
        torch.manual_seed(0)
        for parameter in model.adapters.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        step = Step(method, model, NAMES, TEMPLATES, accumulate)
        first = model.image_tower.blocks[0].fc1
        forward, seen = first.forward, []
        monkeypatch.setattr(first, "forward", lambda x, forward=forward, seen=seen: (seen.append(1), forward(x))[1])
        terms = step.gradients(batch(method, model), seed=1)
        found.append((len(seen), terms, {name: p.grad for name, p in step.trained.items()}))
    (few, terms, gradients), (many, plain_terms, plain) = found
    assert (few, many) == (accumulate, 2 * accumulate)
    torch.testing.assert_close(terms, plain_terms)
    torch.testing.assert_close(gradients, plain)
