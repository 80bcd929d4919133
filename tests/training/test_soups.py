"""Soups: the mean, what helps, and Model Stock, against their formulas; and what cannot be averaged."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from training_world import RECIPE, clip, image_set, make_task, same

from steadyclip.core.errors import ModelError, SteadyClipError, UsageError
from steadyclip.data import ImageData, ImageTask
from steadyclip.data.task import read_split, seen_by
from steadyclip.evaluation import evaluate
from steadyclip.evaluation.records import Run
from steadyclip.methods import get_method
from steadyclip.training import TrainConfig, fit, load_run, soup
from steadyclip.training.checkpoint import read_tensors, to_bytes
from steadyclip.training.soups import mean, stock

RATES = (1e-4, 1e-3, 1e-2)
METHOD = get_method("full")


def trained(out: Path, task: ImageTask, name: str = "full", **recipe) -> Path:
    config = TrainConfig(out=out, progress=False)
    fit(clip(), get_method(name), task, recipe=dataclasses.replace(RECIPE, **recipe), config=config)
    return out


@pytest.fixture(scope="module")
def task() -> ImageTask:
    return make_task(val=3)


@pytest.fixture(scope="module")
def runs(task, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [trained(folder / f"{rate:g}", task, learning_rate=rate, steps=4) for rate in RATES]


def state(run: Path) -> dict[str, torch.Tensor]:
    return read_tensors(run / "trained.safetensors")


def test_the_uniform_soup_is_the_mean_and_a_run_like_any_other(runs, tmp_path) -> None:
    run = soup(runs, tmp_path / "soup", model=clip())
    states = [state(path) for path in runs]
    for name, value in state(tmp_path / "soup").items():
        torch.testing.assert_close(value, sum(one[name] for one in states) / 3)
    model, method, again = load_run(tmp_path / "soup", model=clip())
    assert again == run
    assert method == METHOD
    assert same(model.trained_state(), state(tmp_path / "soup"))
    assert run.method.label == "uniform soup of 3 full"
    assert run.results is not None
    assert run.results.steps == 12


def test_again_it_is_there_and_another_one_is_refused(runs, tmp_path) -> None:
    first = soup(runs[:2], tmp_path / "soup", model=clip())
    before = (tmp_path / "soup" / "trained.safetensors").stat().st_mtime_ns
    assert soup(runs[:2], tmp_path / "soup", model=clip()) == first
    assert (tmp_path / "soup" / "trained.safetensors").stat().st_mtime_ns == before
    with pytest.raises(SteadyClipError, match=r"holds another run: soup\.runs"):
        soup(runs, tmp_path / "soup", model=clip())
    with pytest.raises(SteadyClipError, match=r"holds another run: soup\.how"):
        soup(runs[:2], tmp_path / "soup", how="stock", model=clip())
    with pytest.raises(SteadyClipError, match="holds another run"):  # nor is it taken for a training
        fit(clip(), METHOD, make_task(val=3), recipe=RECIPE, config=TrainConfig(out=tmp_path / "soup", progress=False))


def test_a_greedy_soup_is_never_below_the_best_run_and_takes_only_what_helps(runs, task, tmp_path) -> None:
    splits = {"train": task.train, "val": task.val, "test": task.val}
    data = ImageData(task.name, task.classes, task.templates, (), splits)
    run = soup(runs, tmp_path / "soup", how="greedy", data=data, model=clip())
    assert run.results is not None
    choices = run.results.choices
    states = [state(path) for path in runs]

    def top1(weights: dict[str, torch.Tensor]) -> float:
        model = clip()
        METHOD.attach(model, task.classes)
        model.load_trained_state(weights)
        metrics = evaluate(model, METHOD, task.val).metrics
        assert metrics is not None
        return metrics.top1

    alone = [top1(one) for one in states]
    assert choices["alone"] == alone
    order = sorted(range(3), key=lambda k: -alone[k])
    kept, best = [order[0]], alone[order[0]]
    for k in order[1:]:
        if (found := top1(mean([states[i] for i in [*kept, k]]))) > best:
            kept, best = [*kept, k], found
    assert choices["kept"] == sorted(kept)
    assert choices["validation"] == best >= max(alone)
    assert same(state(tmp_path / "soup"), mean([states[k] for k in sorted(kept)]))


def test_model_stock_by_its_formula() -> None:
    draw = torch.Generator().manual_seed(0)
    start = {"w": torch.randn(3, 4, generator=draw)}
    one, other = ({"w": start["w"] + torch.randn(3, 4, generator=draw).abs()} for _ in range(2))
    assert torch.allclose(stock([one, one, one], start)["w"], one["w"])  # they agree: t = 1
    a, b = torch.zeros(2, 3, 4)
    a[0, 0], b[1, 1] = 2.0, 5.0
    crossed = stock([{"w": start["w"] + a}, {"w": start["w"] + b}], start)
    assert torch.allclose(crossed["w"], start["w"])  # orthogonal: t = 0
    assert torch.equal(stock([start, start], start)["w"], start["w"])
    opposite = stock([{"w": start["w"] + a}, {"w": start["w"] - a}], start)
    assert torch.allclose(opposite["w"], start["w"])
    cosine = torch.cosine_similarity(*((x["w"] - start["w"]).flatten() for x in (one, other)), dim=0)
    t = 2 * cosine / (1 + cosine)
    expected = t * (one["w"] + other["w"]) / 2 + (1 - t) * start["w"]
    torch.testing.assert_close(stock([one, other], start)["w"], expected)
    assert torch.equal(stock([one], start)["w"], one["w"])
    assert stock([one, other], {"w": start["w"].half()})["w"].dtype == torch.float32


def test_images_of_all_its_runs_count_as_seen(runs, tmp_path) -> None:
    task = dataclasses.replace(make_task(per_class=3, name="others"), val=image_set(2))  # some of the other's training
    other = trained(tmp_path / "other", task)
    run = soup([runs[0], other], tmp_path / "soup", model=clip())
    seen = [seen_by(read_split(path / "split.json")) for path in (runs[0], other)]
    assert seen_by(read_split(tmp_path / "soup" / "split.json")) == seen[0] | seen[1]
    assert run.task.content not in {Run.read(path / "run.json").task.content for path in (runs[0], other)}
    split = read_split(tmp_path / "soup" / "split.json")
    digests = {part: {digest for _, _, digest in split[part]} for part in ("train", "val")}
    assert digests["train"] >= set(task.val.digests)
    assert len(digests["train"]) == len(split["train"]) == run.task.train_images == 28
    assert not digests["train"] & digests["val"]
    assert len(digests["val"]) == run.task.val_images == 12


def test_what_cannot_be_averaged_is_named(runs, task, tmp_path) -> None:
    lora = trained(tmp_path / "lora", task, "lora")
    probe = trained(tmp_path / "lp-ft", task, "lp-ft")
    copied = shutil.copytree(runs[0], tmp_path / "copied")
    unfinished = shutil.copytree(runs[0], tmp_path / "unfinished")
    msgspec.structs.replace(Run.read(unfinished / "run.json"), results=None).write(unfinished / "run.json")
    prompted = {part: dataclasses.replace(getattr(task, part), templates=("a {}.",)) for part in ("train", "val")}
    other = trained(tmp_path / "other", dataclasses.replace(task, **prompted))
    for given, options, message in (
        (runs[:1], {}, "a soup takes two runs or more"),
        ([runs[0], runs[0]], {}, "is given twice"),
        ([lora, lora.parent / "lora"], {}, "is given twice"),
        ([lora, runs[0]], {}, "a soup averages the model's own weights, and lora trains others"),
        ([runs[0], lora], {}, "differ in method and knobs: a soup takes runs of one model"),
        ([runs[0], other], {}, "differ in prompts"),
        ([runs[0], unfinished], {}, "unfinished is not finished"),
        ([probe, runs[0]], {"how": "stock"}, "lp-ft trains a head too"),
        ([runs[0], copied], {}, "copied hold the same weights"),
        (runs, {"how": "greedy"}, "give the data of the runs"),
    ):
        with pytest.raises(UsageError, match=message):
            soup(given, tmp_path / "out", model=clip(), **options)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def heads(task, tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("heads")
    return [trained(folder / f"{rate:g}", task, "ft", learning_rate=rate, steps=4) for rate in RATES[:2]]


def test_a_head_that_starts_as_zero_shot_is_averaged_too(heads, tmp_path) -> None:
    run = soup(heads, tmp_path / "uniform", model=clip())
    assert run.method.label == "uniform soup of 2 ft"
    soup(heads, tmp_path / "stock", how="stock", model=clip())
    start = state(heads[0])["head.start_CD"]
    expected = stock([{"w": state(path)["head.weight"]} for path in heads], {"w": start})["w"]
    torch.testing.assert_close(state(tmp_path / "stock")["head.weight"], expected)
    assert not torch.allclose(expected, start)


def test_every_run_must_be_as_its_training_left_it(runs, tmp_path) -> None:
    for file in ("trained.safetensors", "split.json"):
        damaged = shutil.copytree(runs[1], tmp_path / file)
        content = bytearray((damaged / file).read_bytes())
        content[-4] ^= 1  # a weight, or a space
        (damaged / file).write_bytes(content)
        with pytest.raises(SteadyClipError, match=f"{file} was changed or damaged since the training"):
            soup([runs[0], damaged], tmp_path / "out", model=clip())


def test_weights_of_other_names_or_shapes_are_named(runs, tmp_path) -> None:
    name = "network.logit_scale"
    longer = {**state(runs[1]), name: torch.zeros(2)}
    missing = {key: value for key, value in longer.items() if key != name}
    for k, weights in enumerate((longer, missing)):
        path = shutil.copytree(runs[1], tmp_path / f"{k}")
        (path / "trained.safetensors").write_bytes(to_bytes(weights))
        msgspec.structs.replace(Run.read(path / "run.json"), files={}).write(path / "run.json")
        with pytest.raises(ModelError, match=rf"{k} hold weights of other names or shapes \({name}\)"):
            soup([runs[0], path], tmp_path / "out", model=clip())
    assert not (tmp_path / "out" / "run.json").exists()
