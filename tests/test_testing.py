"""The conformance checks must catch what they are for: methods that break one promise each."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steadyclip.adapters import LowRank, Weights
from steadyclip.heads import TextHead
from steadyclip.methods import Method, Recipe, registry
from steadyclip.methods.lora import LoRA
from steadyclip.objectives import CrossEntropy, FeatureL1
from steadyclip.testing import CHECKS, check_method

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
            f.model.image_tower.blocks[0].fc1.bias.add_(0.01)  # no gradient needs it as it was
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
        return super().__call__(f) * (1 + torch.rand(()))


class _Unseeded(LoRA):
    name = "broken"

    def objective(self):
        return _Noisy()


class _OneTowerOnly(LowRank):
    def chosen(self, model):
        return [model.image_tower, model.text_tower]

    def attach(self, model) -> None:
        super().attach(model)
        for name, p in model.adapters.named_parameters():
            if name.endswith("B"):
                torch.nn.init.normal_(p)

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


class _RefusingHead(TextHead):
    def build(self, model, classes):
        head = super().build(model, classes)
        outputs = head.outputs

        def refusing(f, sample):
            head.places(f.names)
            return outputs(f, sample)

        head.outputs = refusing
        return head


class _RefusesNames(LoRA):
    name = "broken"
    head = _RefusingHead()


class _Flat(CrossEntropy):
    def __call__(self, f) -> Tensor:
        return 0 * super().__call__(f)


class _LearnsNothing(LoRA):
    name = "broken"

    def objective(self):
        return _Flat()


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        (_NoSnapshot(), "adapters off equals frozen"),
        (_TouchesOthers(), "adapters off equals frozen"),
        (_MergesNothing(), "merge equals forward"),
        (_Unseeded(), "same seed, same weights"),
        (_HidesATower(), "untouched towers stay frozen"),
        (_RowsLie(), "head"),
        (_RefusesNames(), "head: its head refuses new names"),
        (_LearnsNothing(), "only its parameters change"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_a_broken_promise_is_named(method: Method, promise: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._REGISTRY, "broken", type(method))
    with pytest.raises(AssertionError, match=f"broken on clip, {promise}"):
        check_method(method, families=["clip"])


class _InNoRegistry(LoRA):
    """As a user writes one in a file; its distance has a kink where training begins."""

    name = "in no registry"

    def objective(self):
        return CrossEntropy() + 5 * FeatureL1("image")


def test_a_method_need_not_be_registered() -> None:
    check_method(_InNoRegistry(), families=["clip"])


def test_a_good_method_passes_all() -> None:
    assert len(check_method(LoRA(), families=["siglip"])) == len(CHECKS)
