"""Features of the frozen model, computed once: the same losses, without the images."""

import dataclasses

import pytest
import torch
from training_world import RECIPE, MemoryStore, clip, config, is_step, make_task, same, textured, without

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.methods import get_method
from steadyclip.methods.coop import CoOp
from steadyclip.objectives import CrossEntropy
from steadyclip.training import TrainConfig, fit
from steadyclip.training.loop import Loop

QUIET = TrainConfig(progress=False, log_every=1)
SGD = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.05, steps=7)


class Counting(MemoryStore):
    """Counts what is read."""

    def read(self, key):
        reads.append(key)
        return super().read(key)


reads: list[str] = []


def counted(task):
    reads.clear()
    store = Counting(task.train.store.files)
    return dataclasses.replace(task, train=dataclasses.replace(task.train, store=store))


def run(name: str, views: int, cache: str, task=None, **more):
    model = clip()
    method, recipe = get_method(name), dataclasses.replace(SGD, views=views)
    settings = dataclasses.replace(QUIET, cache=cache, **more)
    result = fit(model, method, task or textured(make_task()), recipe=recipe, config=settings)
    return result, model.trained_state()


@pytest.mark.parametrize("views", [0, 1, 2])
@pytest.mark.parametrize("name", ["coop", "cocoop", "tip-adapter-f", "dra"])
def test_the_losses_are_those_without_the_cache(name, views) -> None:
    (cached, state), (plain, state_off) = run(name, views, "auto"), run(name, views, "off")
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert len(set(cached.losses)) > 1
    assert all(torch.allclose(state[key], state_off[key], atol=1e-5) for key in state)


def test_evaluation_views_are_those_of_no_augmentation() -> None:
    assert run("coop", 2, "auto", augment=False)[0].losses == run("coop", 0, "off")[0].losses
    assert run("coop", 2, "auto")[0].losses != run("coop", 0, "auto")[0].losses


@pytest.mark.parametrize(("name", "decoded"), [("coop", False), ("tip-adapter-f", False), ("dra", True)])
def test_images_are_read_while_the_cache_is_filled_and_then_only_where_a_pass_needs_them(
    monkeypatch, name, decoded
) -> None:
    task = counted(textured(make_task()))
    at_start = []
    fill = Loop._fill_cache
    monkeypatch.setattr(Loop, "_fill_cache", lambda self: (fill(self), at_start.append(len(reads))))
    run(name, 2, "auto", task)
    assert at_start[0] >= 2 * 16
    assert (len(reads) > at_start[0]) is decoded


def test_fresh_augmentation_and_cutout_are_not_cached(monkeypatch) -> None:
    caches = []
    fill = Loop._fill_cache
    monkeypatch.setattr(Loop, "_fill_cache", lambda self: (fill(self), caches.append(self.cache.tables)))
    fit(clip(), get_method("coop"), make_task(), recipe=SGD, config=QUIET)
    run("coop", 2, "auto", cutout=0.5)
    run("coop", 2, "off")
    assert caches == [{}] * 3


@pytest.mark.parametrize(("key_views", "views", "encoded"), [(2, 2, 2), (3, 2, 3), (1, 2, 2), (0, 2, 3)])
def test_views_are_encoded_once_for_the_head_and_the_steps(key_views, views, encoded) -> None:
    task, model = counted(textured(make_task())), clip()
    method = get_method("tip-adapter-f", {"key_views": key_views})
    fit(model, method, task, recipe=dataclasses.replace(SGD, views=views), config=QUIET)
    content = len(task.train)  # each image is hashed once
    assert len(reads) == content + encoded * len(task.train)


class Stumbling(CrossEntropy):
    def __call__(self, f):
        return super().__call__(f) * (float("nan") if is_step(f, 5) else 1)


class StumblingCoOp(CoOp):
    def objective(self):
        return Stumbling()


@pytest.mark.parametrize("cache", ["auto", "off"])
def test_it_is_resumed_exactly_with_or_without_the_cache(tmp_path, cache) -> None:
    recipe, task = dataclasses.replace(SGD, views=2), textured(make_task())
    through, resumed = clip(), clip()
    fit(through, CoOp(), task, recipe=recipe, config=config(tmp_path / "through", cache=cache))
    with pytest.raises(SteadyClipError, match="not finite at step 5"):
        fit(clip(), StumblingCoOp(), task, recipe=recipe, config=config(tmp_path / "run", cache=cache))
    fit(resumed, CoOp(), task, recipe=recipe, config=config(tmp_path / "run", cache=cache))
    assert same(through.trained_state(), resumed.trained_state())


def test_what_cannot_be_read_is_left_out_alike() -> None:
    task = without(textured(make_task(8)), "red/1.png")
    (cached, _), (plain, _) = run("coop", 2, "auto", task), run("coop", 2, "off", task)
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert cached.run.results.unreadable[0][0] == "red/1.png"
    with pytest.raises(DataError, match="5 of 32 images"):
        run("coop", 2, "auto", without(task, *(f"red/{i}.png" for i in range(5))))
