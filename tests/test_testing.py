"""The conformance checks must catch what they are for: methods that break one promise each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steadyclip.adapters import LowRank, Weights
from steadyclip.heads import TextHead
from steadyclip.methods import Method, Recipe
from steadyclip.methods.lora import LoRA
from steadyclip.objectives import CrossEntropy
from steadyclip.testing import check_method

RECIPE = Recipe(steps=1)


class _WeightsWithoutCopy(Weights):
    def attach(self, model) -> None:
        model.network.requires_grad_(True)
        model._frozen_copy = {"network.logit_scale": torch.zeros(())}


class _NoSnapshot(Method):
    name = "broken"
    adapters = (_WeightsWithoutCopy(),)
    recipe = RECIPE


class _ChangesWeights(CrossEntropy):
    def __call__(self, f) -> Tensor:
        with torch.no_grad():
            f.model.image_tower.blocks[0].fc1.weight.add_(0.01)
        return super().__call__(f)


class _TouchesOthers(LoRA):
    name = "broken"

    def objective(self):
        return _ChangesWeights()


class _MergesNothing(LoRA):
    name = "broken"

    def merge(self, model) -> None:
        model.detach_all()


class _Noisy(CrossEntropy):
    def __call__(self, f) -> Tensor:
        return super().__call__(f) * (1 + torch.rand(()) * (1 + torch.seed() % 1000))


class _Unseeded(LoRA):
    name = "broken"

    def objective(self):
        return _Noisy()


class _OneTowerOnly(LowRank):
    @property
    def touches(self) -> frozenset[str]:
        return frozenset({"text"})


class _HidesATower(Method):
    name = "broken"
    adapters = (_OneTowerOnly(),)
    recipe = RECIPE


class _LyingHead(TextHead):
    def build(self, model, classes):
        head = super().build(model, classes)
        rows = head.rows
        head.rows = lambda f: (2 * rows(f)[0], rows(f)[1])
        return head


class _RowsLie(LoRA):
    name = "broken"
    head = _LyingHead()


class _LearnsNothing(LoRA):
    name = "broken"

    def objective(self):
        return CrossEntropy() * 1e-30


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        (_NoSnapshot(), "adapters off equals frozen"),
        (_TouchesOthers(), "adapters off equals frozen"),
        (_MergesNothing(), "merge equals forward"),
        (_Unseeded(), "same seed, same weights"),
        (_HidesATower(), "untouched towers stay frozen"),
        (_RowsLie(), "head"),
        (_LearnsNothing(), "only its parameters change"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_a_broken_promise_is_named(method: Method, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyclip.methods import registry

    monkeypatch.setitem(registry._REGISTRY, "broken", type(method))
    with pytest.raises(AssertionError, match=f"broken on clip, {promise}"):
        check_method(method, families=["clip"])


def test_a_good_method_passes_all() -> None:
    assert len(check_method(LoRA(), families=["siglip"])) == 11
