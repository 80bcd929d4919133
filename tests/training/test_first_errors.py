"""What is wrong is said before any training: in one line, without a folder, and the model can be used again."""

import dataclasses

import pytest
from training_world import RECIPE, Everything, clip, config, make_task

from steadyclip.adapters import Prompts, Weights
from steadyclip.core.errors import ModelError, SteadyClipError, UsageError
from steadyclip.evaluation import Scorer
from steadyclip.methods import compose, get_method
from steadyclip.objectives import CrossEntropy, InfoNCE, Text, TextsOfStream
from steadyclip.training import TrainConfig, fit

QUIET = TrainConfig(progress=False)


class Streamless(Everything):
    name = "streamless"

    def objective(self):
        return CrossEntropy() + InfoNCE(Text(TextsOfStream(stream="captions")))


def long_names():
    task = make_task()
    names = tuple(" ".join([name] * 90) for name in task.classes)
    return dataclasses.replace(task, train=dataclasses.replace(task.train, classes=names))


@pytest.mark.parametrize(
    ("method", "task", "words"),
    [
        (get_method("coop"), long_names(), "shorten the name or the template"),
        (Streamless(), make_task(), "reads the stream 'captions'; it provides none"),
        (Everything(adapters=(Weights(), Weights("text"))), make_task(), "two pieces 'weights'"),
        (Everything(adapters=(Prompts(), Prompts())), make_task(), "two pieces 'prompts'"),
        (Everything(adapters=(Prompts(depth=99),)), make_task(), "depth=99, but the text tower"),
        (Everything(adapters=()), make_task(), "has nothing to train"),
        (Everything(), make_task(), "cannot be shared by 1 processes in 9 parts"),
    ],
    ids=["a long name", "no stream", "two Weights", "two Prompts", "too deep", "nothing to train", "too many parts"],
)
def test_it_is_one_line_and_nothing_is_left_behind(tmp_path, method, task, words) -> None:
    model, parts = clip(), 9 if "parts" in words else 1
    with pytest.raises(SteadyClipError, match=words) as caught:
        fit(model, method, task, recipe=RECIPE, config=config(tmp_path / "run", accumulate=parts))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    fit(model, get_method("zero-shot"), make_task(), config=QUIET)  # the model is as it was


def test_unknown_knobs_are_named() -> None:
    with pytest.raises(UsageError, match="nonsense") as caught:
        get_method("coop", {"nonsense": 1})
    assert "\n" not in str(caught.value)


def test_a_composition_without_its_stream_is_refused() -> None:
    with pytest.raises(UsageError, match="reads the stream 'captions'"):
        compose("x", objective=InfoNCE(Text(TextsOfStream(stream="captions"))))


def test_an_evaluation_is_no_training() -> None:
    model, task = clip(), make_task()
    Scorer(model, get_method("zero-shot"), task.classes, task.templates)
    assert model.head is None
    fit(model, get_method("linear-probe"), task, config=QUIET)
    assert model.head.classes == task.classes
    with pytest.raises(ModelError, match="load it afresh"):
        fit(model, get_method("lora"), task, recipe=RECIPE, config=QUIET)


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "linear-probe"])
def test_a_trained_head_is_not_trained_twice(name) -> None:
    model, task = clip(), make_task()
    recipe = dataclasses.replace(RECIPE, views=1)
    fit(model, get_method(name), task, recipe=recipe, config=QUIET)
    if name == "tip-adapter":  # it fills itself anew, and nothing else is changed
        fit(model, get_method(name), task, config=QUIET)
    else:
        with pytest.raises(ModelError, match="load it afresh"):
            fit(model, get_method(name), task, recipe=recipe, config=QUIET)
