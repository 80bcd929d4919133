"""The conformance checks must catch what they are for: methods that break one promise each."""

import pytest
import torch
from torch import Tensor

from steadyclip.methods.base import Method
from steadyclip.methods.full import Full
from steadyclip.methods.lora import LoRA
from steadyclip.testing import check_method


class _NoSnapshot(Full):
    name = "broken"

    def adapt(self, model, classes) -> None:
        model.requires_grad_(True)
        model._frozen_copy = {"network.logit_scale": torch.zeros(())}


class _StartsElsewhere(LoRA):
    name = "broken"

    def adapt(self, model, classes) -> None:
        super().adapt(model, classes)
        for name, p in model.adapters.named_parameters():
            if name.endswith("B"):
                torch.nn.init.normal_(p)


class _TouchesOthers(LoRA):
    name = "broken"

    def loss(self, model, batch) -> dict[str, Tensor]:
        with torch.no_grad():
            model.image_tower.blocks[0].fc1.weight.add_(0.01)
        return super().loss(model, batch)


class _MergesNothing(LoRA):
    name = "broken"

    def merge(self, model) -> None:
        model.detach_all()


class _Unseeded(LoRA):
    name = "broken"

    def loss(self, model, batch) -> dict[str, Tensor]:
        return {"loss": super().loss(model, batch)["cross_entropy"] * (1 + torch.rand(()) * (1 + torch.seed() % 1000))}


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        (_NoSnapshot(), "adapters off equals frozen"),
        (_StartsElsewhere(), "step 0 equals frozen"),
        (_TouchesOthers(), "adapters off equals frozen"),
        (_MergesNothing(), "merge equals forward"),
        (_Unseeded(), "same seed, same weights"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Method) else "",
)
def test_a_broken_promise_is_named(method: Method, promise: str) -> None:
    with pytest.raises(AssertionError, match=f"broken on clip, {promise}"):
        check_method(method, families=["clip"])


def test_a_good_method_passes_all() -> None:
    assert len(check_method(LoRA(), families=["siglip"])) == 10
