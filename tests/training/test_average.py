"""Running averages of what is trained, and heads that are filled before they are trained: through a resume."""

import dataclasses
import json
from typing import Any

import pytest
import torch
from training_world import RECIPE, Everything, Harmful, clip, close, config, is_step, make_task, same

from steadyclip.core.errors import SteadyClipError
from steadyclip.heads import CacheHead
from steadyclip.heads.cache import _CacheHead
from steadyclip.methods import get_method
from steadyclip.methods.average import Average
from steadyclip.methods.tip_adapter import TipAdapterF
from steadyclip.objectives import CrossEntropy
from steadyclip.training import TrainConfig, fit
from steadyclip.training.checkpoint import newest_checkpoint, read_tensors

QUIET = TrainConfig(progress=False, log_every=1)
AVERAGES = {
    "ema": Average("ema", decay=0.7),
    "gaussian": Average("gaussian", mean=4.0, std=2.0),
    "ema of epochs": Average("ema", "epoch", decay=0.7),
    "gaussian of epochs": Average("gaussian", "epoch", mean=2.0, std=1.0),
    "for terms only": Average("ema", decay=0.7, final=False),
}


def trained(method, recipe=RECIPE, settings=QUIET) -> dict[str, torch.Tensor]:
    model = clip()
    fit(model, method, make_task(), recipe=recipe, config=settings)
    return model.trained_state()


def points(steps: int) -> list[dict[str, torch.Tensor]]:
    """What is trained at the start and after each step, of trainings that end there but go along the same way."""
    constant = dataclasses.replace(RECIPE, schedule="constant")
    model = clip()
    Everything().attach(model, make_task().classes)
    later = [trained(Everything(), dataclasses.replace(constant, steps=i)) for i in range(1, steps + 1)]
    return [model.trained_state(), *later]


def mean(weights: list[float], of: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    total = sum(weights)
    return {name: sum(w / total * point[name] for w, point in zip(weights, of, strict=True)) for name in of[0]}


def test_the_result_is_the_mean_of_the_points() -> None:
    recipe = dataclasses.replace(RECIPE, schedule="constant", steps=5)
    at = points(5)
    ema = [0.7**5, *(0.3 * 0.7 ** (5 - i) for i in range(1, 6))]
    assert close(trained(Everything(average=AVERAGES["ema"]), recipe), mean(ema, at), 1e-5)
    uniform = Everything(average=Average("uniform"))
    assert close(trained(uniform, recipe), mean([1.0] * 6, at), 1e-5)
    # an epoch has two steps, and the last step ends the third
    epochs = Everything(average=Average("uniform", "epoch"))
    assert close(trained(epochs, recipe), mean([1.0] * 4, [at[i] for i in (0, 2, 4, 5)]), 1e-5)
    assert same(trained(Everything(average=AVERAGES["for terms only"]), recipe), at[5])


@pytest.mark.parametrize("kind", AVERAGES)
def test_it_is_resumed_exactly(tmp_path, kind) -> None:
    average = AVERAGES[kind]
    through = trained(Everything(average=average))
    with pytest.raises(SteadyClipError, match="not finite at step 5"):
        trained(Harmful(average=average, harm="nan", at=5), settings=config(tmp_path / "run"))
    assert newest_checkpoint(tmp_path / "run/checkpoints").step == 4
    assert same(trained(Everything(average=average), settings=config(tmp_path / "run")), through)
    assert same(read_tensors(tmp_path / "run/trained.safetensors"), through)
    assert same(through, trained(Everything())) is not average.final


# ---- heads that are filled, and then trained


class Stumbling(CrossEntropy):
    at: int = 1

    def __call__(self, f):
        return super().__call__(f) * (float("nan") if is_step(f, self.at) else 1)


class Stumbles(TipAdapterF):
    at: int = 1

    def knobs(self) -> dict[str, Any]:
        return TipAdapterF().knobs()

    def objective(self):
        return Stumbling(at=self.at)


@pytest.mark.parametrize(("at", "step"), [(1, 0), (3, 2)])
def test_a_filled_head_is_saved_before_the_first_step_and_not_filled_again(tmp_path, monkeypatch, at, step) -> None:
    recipe = dataclasses.replace(RECIPE, views=2)
    through = trained(TipAdapterF(), recipe)
    with pytest.raises(SteadyClipError, match=f"not finite at step {at}"):
        trained(Stumbles(at=at), recipe, config(tmp_path / "run"))
    saved = newest_checkpoint(tmp_path / "run/checkpoints")
    assert (saved.step, saved.state["choices"]) == (step, {"keys": 16})
    assert saved.state["seconds"] < 5
    monkeypatch.setattr(_CacheHead, "solve", lambda *_: pytest.fail("it was filled again"))
    assert same(trained(TipAdapterF(), recipe, config(tmp_path / "run")), through)
    assert json.loads((tmp_path / "run/run.json").read_text())["results"]["choices"] == {"keys": 16}


def test_an_average_starts_from_the_filled_head() -> None:
    recipe = dataclasses.replace(RECIPE, views=2, steps=2)
    still = dataclasses.replace(recipe, learning_rate=1e-12, weight_decay=0.0)
    average = TipAdapterF(average=Average("uniform"))
    assert close(trained(average, still), trained(TipAdapterF(), still), 1e-6)
    assert not close(trained(average, recipe), trained(TipAdapterF(), recipe), 1e-6)


def test_a_head_that_is_filled_with_no_numbers_is_told(monkeypatch) -> None:
    def solve(self, data, seed):
        self.keys_ND.data = torch.full((3, self.keys_ND.shape[1]), torch.nan)
        return {}

    monkeypatch.setattr(_CacheHead, "solve", solve)
    with pytest.raises(SteadyClipError, match=r"filled with is not finite \(head\.keys_ND\)"):
        trained(TipAdapterF(), RECIPE)


def test_without_augmentation_keys_are_of_the_images_as_for_evaluation() -> None:
    off = dataclasses.replace(QUIET, augment=False)
    one = trained(get_method("tip-adapter", {"key_views": 0}), None)
    assert same(trained(get_method("tip-adapter"), None, off), one)


def test_speed_counts_images_that_were_encoded() -> None:
    result = fit(clip(), get_method("tip-adapter"), make_task(), config=QUIET)
    assert result.images_per_second > 0
    assert CacheHead().key_views == 10
    assert fit(clip(), get_method("zero-shot"), make_task(), config=QUIET).images_per_second is None
