"""Robust fine-tuning: what is trained, where it starts, and what holds it, by the formulas."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from method_world import NAMES, TEMPLATES, attached, filled, make_batch, terms
from steadyclip.adapters import TowerWeights
from steadyclip.heads import FeatureTask, FromTextHead
from steadyclip.methods import Method, get_method, methods
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.objectives import CrossEntropy, Image, RandomTexts, Text, TextView
from steadyclip.testing import train_a_little
from steadyclip.training.step import Step

IMAGE_TOWER = ("ft", "lp-ft", "lipsum-ft", "clipood")


def started(method: Method, family: str = "clip") -> DualEncoder:
    """The method as it is before the first step."""
    model = attached(method, family)
    planner = method.planner(model)
    images = torch.randn(8, 1, model.embed_dim, generator=torch.Generator().manual_seed(1))

    def text(view: TextView) -> Tensor:
        f = planner.features(NAMES, TEMPLATES, None)
        planner.fill(f, [read := Text(view, "frozen")])
        return f.raw[read]

    scale = model.scale_and_bias(True)[0]
    model.head.solve(FeatureTask(lambda part, views: (images, torch.arange(8) % len(NAMES)), text, scale), 0)
    return model


@torch.no_grad()
def scored(method: Method, model: DualEncoder, names: tuple[str, ...] = NAMES) -> Tensor:
    planner = method.planner(model)
    f = planner.features(names, TEMPLATES, make_batch(), scoring=True)
    planner.fill(f, planner.canonical([Image(), *model.head.reads(scoring=True)]))
    return f.logits()


def moved(model: DualEncoder) -> DualEncoder:
    """As if it had been trained."""
    generator = torch.Generator().manual_seed(0)
    for parameter in (p for p in model.parameters() if p.requires_grad):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("name", ["ft", "lipsum-ft", "cross-modal"])
def test_with_several_prompts_it_starts_as_zero_shot(name: str, family: str) -> None:
    zero_shot = get_method("zero-shot")
    expected = scored(zero_shot, attached(zero_shot, family))
    torch.testing.assert_close(scored(get_method(name), started(get_method(name), family)), expected)
    raw = get_method("zs-lp")  # the mean of raw texts, as its authors take it: else this test could not fail
    assert (scored(raw, started(raw, family)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["clip", "siglip"])
@pytest.mark.parametrize("name", IMAGE_TOWER)
def test_it_trains_the_image_tower_alone(name: str, family: str) -> None:
    model = attached(get_method(name), family)
    trained = {n: p.numel() for n, p in model.network.named_parameters() if p.requires_grad}
    image = {n: p.numel() for n, p in model.network.named_parameters() if n.startswith(("vision_model", "visual_proj"))}
    assert trained == image
    assert not any(n.startswith("network.logit") for n in model.trained_state())
    with_scale = {n for n, p in attached(get_method(name, {"scale": True}), family).network.named_parameters()
                  if p.requires_grad}  # fmt: skip
    assert with_scale - trained.keys() == {n for n, _ in model.network.named_parameters() if n.startswith("logit_")}


def test_the_last_blocks_without_the_scale() -> None:
    model = tiny("clip")
    TowerWeights("image", blocks=1).attach(model)
    last = {id(weight) for weight in model.image_tower.blocks[-1].module.parameters()}
    assert {id(p) for p in model.network.parameters() if p.requires_grad} == last


@pytest.mark.parametrize("name", ["full", "flyp", "l2-sp", "car-ft"])
def test_others_train_the_scale_too(name: str) -> None:
    assert attached(get_method(name)).network.logit_scale.requires_grad
    assert "scale" not in get_method(name).knobs()  # runs that are there keep their identity


def test_the_head_of_ft_learns_as_a_plain_linear_layer() -> None:
    method = get_method("ft")
    model = started(method)
    scale = model.logit_scale.detach()
    start = model.head.weight.detach().clone()
    assert sum(p.numel() for p in model.head.parameters()) == len(NAMES) * (model.embed_dim + 1)
    torch.testing.assert_close(start.norm(dim=1), scale.expand(len(NAMES)))
    step = Step(method, model, NAMES, TEMPLATES)
    step.gradients(batch := make_batch(), seed=0)
    with torch.no_grad():
        image = model.encode_image(batch.images_BCHW)
    error = (image @ start.T).softmax(-1) - F.one_hot(batch.labels_B, len(NAMES))
    torch.testing.assert_close(model.head.weight.grad, error.T @ image / len(image), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.head.bias.grad, error.mean(0), rtol=1e-4, atol=1e-6)


def test_without_its_term_lipsum_ft_is_cross_entropy_of_its_head() -> None:
    ours = get_method("lipsum-ft", {"w": 0})
    theirs = dataclasses.replace(get_method("ft"), head=FromTextHead(unit=False))
    found = []
    for method in (ours, theirs):
        step = Step(method, moved(started(method)), NAMES, TEMPLATES)
        step.gradients(make_batch(), seed=0)
        found.append({name: p.grad for name, p in step.trained.items() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-5, atol=1e-7)


def test_lipsum_ft_keeps_half_the_squared_change_over_random_texts() -> None:
    method = get_method("lipsum-ft", {"w": 3.0})
    model, batch = moved(started(method)), make_batch()
    f = filled(method, model, batch, seed=5)
    (words,) = zip(*RandomTexts(number=80).texts(f, None), strict=True)
    with torch.no_grad(), model.frozen():
        before, random_MD = model.encode_image(batch.images_BCHW), model.encode_text(list(words))
    with torch.no_grad():
        after = model.encode_image(batch.images_BCHW)
    change = model.logit_scale.detach() * (after - before) @ random_MD.T
    assert change.shape == (6, 80)
    expected = 3.0 * change.square().sum(1).div(2 * 80).mean()
    torch.testing.assert_close(terms(method, model, batch, seed=5)["texts_kept"], expected, rtol=1e-4, atol=1e-6)


def test_l2_sp_holds_by_half_the_squared_distance() -> None:
    method = get_method("l2-sp", {"w": 0.3})
    model = moved(attached(method))
    start = {name: p.detach() for name, p in tiny("clip").named_parameters()}
    distance = sum((p.detach() - start[name]).square().sum() for name, p in model.named_parameters() if p.requires_grad)
    found = terms(method, model, make_batch())["l2_s_p"]
    torch.testing.assert_close(found, 0.3 / 2 * distance, rtol=1e-4, atol=1e-6)


def test_car_ft_holds_by_the_divergence_from_what_was() -> None:
    method = get_method("car-ft", {"w": 2.0})
    model, batch = moved(attached(method)), make_batch()
    (term,) = (term for _, term in method.objective().terms if not isinstance(term, CrossEntropy))  # type: ignore[union-attr]
    contexts = [" ".join(template.replace("{}", " ").split()) for template in term.templates]  # type: ignore[attr-defined]
    assert len(contexts) == 80
    with torch.no_grad():
        with model.frozen():
            scale0 = model.logit_scale
            p0 = scale0 * model.encode_image(batch.images_BCHW) @ model.encode_text(contexts).T
        p = model.logit_scale * model.encode_image(batch.images_BCHW) @ model.encode_text(contexts).T
    p0, p = p0.softmax(-1), p.softmax(-1)
    expected = 2.0 * (p0 * (p0 / p).log()).sum(1).mean()
    reversed_ = 2.0 * (p * (p / p0).log()).sum(1).mean()
    assert (expected - reversed_).abs() > 1e-3 * expected  # else the test could not fail
    found = terms(method, model, batch)["context_consistency"]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_clipood_ends_with_the_beta_average_of_its_steps_and_the_start() -> None:
    method = get_method("clipood")
    plain = dataclasses.replace(method, average=None)
    T, total, weights = 3, {}, []
    for t in range(T + 1):
        u = (t + 0.5) / (T + 1)
        weights.append((u * (1 - u)) ** (0.1 - 1))  # the density of Beta(0.1, 0.1) but for its constant
        train_a_little(plain, model := tiny("clip"), steps=t)
        total = {n: total.get(n, 0) + weights[-1] * value for n, value in model.trained_state().items()}
    train_a_little(method, model := tiny("clip"), steps=T)
    for name, value in model.trained_state().items():
        torch.testing.assert_close(value, total[name] / sum(weights), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", methods())
def test_it_says_whether_it_can_be_averaged_with_the_pretrained_model(name: str) -> None:
    method = get_method(name)
    model = attached(method)
    start, end = model.pretrained_state(), model.trained_state()
    assert method.averages == (bool(end) and start.keys() == end.keys())
    assert not method.own_weights or method.averages
