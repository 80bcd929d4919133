"""A batch in parts gives the gradient of the whole batch, for every method."""

import dataclasses

import pytest
import torch
from training_world import clip

from steadyclip.methods import get_method, methods, planner
from steadyclip.objectives import Batch
from steadyclip.testing import NAMES, TEMPLATES, attach, batch
from steadyclip.training.step import Step, _parts

# Cutout draws for each part; dropout depends on what goes through together.
KNOBS = {"lora": {"dropout": 0.0}, "compose": {"adapters": "LowRank(dropout=0.0)"}, "orthcr": {"cut": "off"}}


def gradients(name: str, accumulate: int):
    method, model = get_method(name, KNOBS.get(name, {})), clip()
    attach(method, model)
    with torch.no_grad():  # away from the start, where some gradients are 0
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.numel():
                parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    if name == "tip-adapter-f":
        model.head.keys_ND.data = torch.randn(8, model.embed_dim, generator=torch.Generator().manual_seed(2))
        model.head.values_N = torch.arange(8) % 4
    step = Step(method, model, NAMES, TEMPLATES, accumulate)
    terms = step.gradients(batch(method, model), seed=1)
    return terms, {key: p.grad for key, p in step.trained.items() if p.grad is not None}, step.planner


@pytest.mark.parametrize("name", [name for name, method in methods().items() if method().recipe])
def test_three_parts_are_the_whole(name) -> None:
    (whole, expected, one), (terms, found, three) = gradients(name, 1), gradients(name, 3)
    assert found.keys() == expected.keys()
    assert found
    largest = max(float(value.abs().max()) for value in expected.values())
    for key, value in expected.items():
        assert torch.allclose(found[key], value, rtol=0, atol=1e-5 * largest), key
    for key, value in whole.items():
        assert torch.allclose(terms[key], value, rtol=1e-5, atol=1e-6)
    if not three.conditional and name not in ("flyp", "arf"):  # class texts go through once a step
        assert three.calls["text tuned rows"] == one.calls["text tuned rows"]


def test_streams_are_cut_in_proportion_and_what_has_no_rows_is_in_every_part() -> None:
    streams = {"s": {"texts": list("abcdef"), "x": torch.arange(6), "deep": {"y": (1, 2, 3)}, "rate": 0.5}}
    parts = _parts(Batch(torch.arange(3), ("a", "b", "c"), None, streams=streams), 2)
    assert [part.keys for part in parts] == [("a", "b"), ("c",)]
    assert [part.streams["s"]["texts"] for part in parts] == [list("abcd"), list("ef")]
    assert [part.streams["s"]["x"].tolist() for part in parts] == [[0, 1, 2, 3], [4, 5]]
    assert [part.streams["s"]["deep"]["y"] for part in parts] == [(1, 2), (3,)]
    assert [part.streams["s"]["rate"] for part in parts] == [0.5, 0.5]


def test_backward_is_outside_of_the_precision() -> None:
    """Autocast is for forward passes: torch asks not to run backward under it."""
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            seen.append(torch.is_autocast_enabled("cpu"))
            return gradient

    from steadyclip.core.precision import arithmetic

    method, model = get_method("full"), clip()
    attach(method, model)
    model.image_tower.blocks[0].module.register_forward_hook(
        lambda module, args, out: (Watch.apply(out[0]), *out[1:]) if isinstance(out, tuple) else Watch.apply(out)
    )
    for accumulate in (1, 3):
        step = Step(method, model, NAMES, TEMPLATES, accumulate)
        step.planner.arithmetic = lambda: arithmetic(model.device, "bf16")
        step.gradients(dataclasses.replace(batch(method, model)), seed=1)
    assert seen == [False] * 4


def test_many_texts_go_through_in_parts_by_themselves(monkeypatch) -> None:
    def of(largest: int) -> dict:
        monkeypatch.setattr(planner, "TRAINED_AT_ONCE", largest)
        monkeypatch.setattr(planner, "PART", 2)
        _, found, made = gradients("full", 1)
        assert made.calls["text tuned calls"] == (1 if largest >= len(NAMES) else 4)  # two parts, each made twice
        return found

    whole, parts = of(len(NAMES)), of(len(NAMES) - 1)
    largest = max(float(value.abs().max()) for value in whole.values())
    for key, value in whole.items():
        assert torch.allclose(parts[key], value, rtol=0, atol=1e-5 * largest), key
