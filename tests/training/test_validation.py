"""Validation accuracy during a training, early stopping by it, and what trackers are told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from training_world import RECIPE, clip, config, make_task, same

from steadyclip.core.errors import UsageError
from steadyclip.evaluation import Scorer, evaluate
from steadyclip.methods import get_method, planner
from steadyclip.models.features import image_features
from steadyclip.training import Stopped, TrainConfig, fit, load_run
from steadyclip.training.checkpoint import newest_checkpoint
from steadyclip.training.monitor import Best
from steadyclip.training.run import Run, digest

LONG = dataclasses.replace(RECIPE, steps=12, steps_per_shot=None, epochs=None, learning_rate=3e-3)


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_the_accuracy_in_the_log_is_that_of_evaluate(tmp_path: Path) -> None:
    model, method, task = clip(), get_method("lora"), make_task(val=3)
    settings = dataclasses.replace(config(tmp_path / "run"), validate_every=4, log_every=100)
    fit(model, method, task, recipe=LONG, config=settings)
    found = rows(tmp_path / "run")
    assert [row["step"] for row in found] == [4, 8, 12]
    record = evaluate(model, method, task.val)
    assert record.metrics
    assert found[-1]["validation_top1"] == record.metrics.top1
    images_BCHW = torch.stack([model.preprocess(task.val.read(i)) for i in range(len(task.val))])
    prompts = [[template.replace("{}", name) for name in task.classes] for template in task.templates]
    with torch.no_grad():
        text_CD = torch.nn.functional.normalize(sum(model.encode_text(of_one) for of_one in prompts), dim=1)
        logits_BC = model.logit_scale * model.encode_image(images_BCHW) @ text_CD.T
    loss = torch.nn.functional.cross_entropy(logits_BC, torch.tensor(task.val.labels))
    assert found[-1]["validation_loss"] == pytest.approx(float(loss), rel=1e-5)


@pytest.mark.parametrize(
    "name", ["orthcr", "orthsr", "dra", "full", "mma", "maple", "promptsrc", "taskres", "tip-adapter-f"]
)
def test_what_is_logged_is_what_the_weights_say_at_that_step(name: str, tmp_path: Path) -> None:
    """Also for what keeps solved maps, cached features or an average: nothing of an earlier step is scored."""
    method, task = get_method(name), make_task(val=3)
    recipe = dataclasses.replace(LONG, learning_rate=3e-2)
    fit(clip(), method, task, recipe=recipe, config=dataclasses.replace(config(tmp_path / "run"), validate_every=1))
    found = [row["validation_loss"] for row in rows(tmp_path / "run") if "validation_loss" in row]
    assert len(set(found)) > 6
    if method.average is not None:  # the last line is of the weights before they were averaged
        return
    model, again, _ = load_run(tmp_path / "run", model=clip())
    scorer = Scorer(model, again, task.classes, task.templates, "fp32")
    features = image_features(model, task.val, frozen="image" not in again.touched)
    logits_NC = torch.cat(list(scorer.every(features.rows)))
    assert found[-1] == pytest.approx(float(torch.nn.functional.cross_entropy(logits_NC, features.labels_N)), rel=1e-4)


@pytest.mark.parametrize("parts", ["texts", "images"])
@pytest.mark.parametrize("name", ["orthcr", "dra"])
def test_after_passes_in_parts_the_model_is_what_was_saved(
    name: str, parts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such passes are made without gradients first."""
    model, task, settings = clip(), make_task(), config(tmp_path / "run")
    if parts == "texts":
        monkeypatch.setattr(planner, "TRAINED_AT_ONCE", 2)
        monkeypatch.setattr(planner, "PART", 2)
    else:
        settings = dataclasses.replace(settings, accumulate=3)
    fit(model, get_method(name), task, recipe=dataclasses.replace(LONG, learning_rate=3e-2), config=settings)
    saved, *_ = load_run(tmp_path / "run", model=clip())
    images_BCHW = torch.stack([model.preprocess(task.train.read(i)) for i in range(3)])
    with torch.no_grad():
        assert torch.allclose(model.encode_text(task.classes), saved.encode_text(task.classes), atol=1e-6)
        assert torch.allclose(model.encode_image(images_BCHW), saved.encode_image(images_BCHW), atol=1e-6)


def test_looking_changes_nothing(tmp_path: Path) -> None:
    trained = []
    for every in (None, 1, 5):
        model = clip()
        settings = dataclasses.replace(config(tmp_path / str(every)), validate_every=every)
        fit(model, get_method("lora"), make_task(val=2), recipe=LONG, config=settings)
        trained.append(model.trained_state())
    assert same(trained[0], trained[1])
    assert same(trained[0], trained[2])
    one, other = (Run.read(tmp_path / name / "run.json") for name in ("1", "5"))
    assert digest(one) == digest(other)


def test_it_stops_and_keeps_the_best(tmp_path: Path) -> None:
    settings = dataclasses.replace(config(tmp_path / "run"), validate_every=2, patience=2)
    model, method, task = clip(), get_method("full"), make_task(val=4)
    recipe = dataclasses.replace(LONG, steps=40, learning_rate=0.03, warmup_steps=0)
    result = fit(model, method, task, recipe=recipe, config=settings)
    assert result.run.results
    scored = [(row["validation_top1"], row["step"]) for row in rows(tmp_path / "run")]
    best = max(top1 for top1, _ in scored)
    first = next(step for top1, step in scored if top1 == best)
    assert result.run.results.choices == {"best step": first, "validation top1": best}
    assert result.run.results.steps == scored[-1][1] == min(first + 4, 40)
    record = evaluate(load_run(tmp_path / "run", model=clip())[0], method, task.val)
    assert record.metrics
    assert record.metrics.top1 == best


def test_stopped_and_resumed_it_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(config(tmp_path / "through"), validate_every=2, patience=3, checkpoint_steps=3)
    task, method = make_task(val=3), get_method("lora")
    through = clip()
    fit(through, method, task, recipe=LONG, config=settings)

    from steadyclip.training.loop import Loop

    step = Loop._step

    def stop_at_five(self, number, sample):  # a crash: what was saved last is what is left
        if number == 5:
            raise Stopped("crashed")
        step(self, number, sample)

    again = dataclasses.replace(settings, out=tmp_path / "again")
    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_step", stop_at_five)
        with pytest.raises(Stopped):
            fit(clip(), method, task, recipe=LONG, config=again)
    saved = newest_checkpoint(tmp_path / "again" / "checkpoints")
    assert saved
    assert saved.step == 3
    model = clip()
    fit(model, method, task, recipe=LONG, config=again)
    assert same(model.trained_state(), through.trained_state())
    one, other = (Run.read(tmp_path / name / "run.json").results for name in ("through", "again"))
    assert one
    assert other
    assert (one.choices, one.steps) == (other.choices, other.steps)


def test_patience_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    runs = []
    for name, more in (("a", {}), ("b", {"validate_every": 2}), ("c", {"validate_every": 2, "patience": 1})):
        settings = dataclasses.replace(config(tmp_path / name), **more)
        runs.append(fit(clip(), get_method("lora"), make_task(val=2), recipe=LONG, config=settings).run)
    assert digest(runs[0]) == digest(runs[1]) != digest(runs[2])


@pytest.mark.parametrize(
    ("more", "val", "line"),
    [
        ({"patience": 2}, 2, "patience counts scorings of the validation images: set validate_every, too"),
        ({"validate_every": 0}, 2, "validate_every=0 must be 1 or more"),
        ({"validate_every": 2}, 0, "has no validation images to score"),
        ({"log": ("wandb",)}, 2, "--log wandb needs a package that is not installed here"),
    ],
)
def test_what_makes_no_sense(more: dict, val: int, line: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(config(tmp_path / "run"), **more)
    with pytest.raises(UsageError, match=line):
        fit(clip(), get_method("lora"), make_task(val=val), recipe=LONG, config=settings)
    assert not (tmp_path / "run").exists()


def test_the_first_of_equals_is_the_best() -> None:
    best = Best(patience=2)
    for step, top1 in enumerate((0.5, 0.5, 0.7, 0.6), 1):
        best.look(step, top1, lambda step=step: {"w": torch.tensor(float(step))})
    assert (best.step, best.top1, best.given_up) == (3, 0.7, False)
    best.look(5, 0.7, lambda: {})
    assert best.given_up
    assert best.weights["w"] == 3


def test_tensorboard_is_told_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    settings: TrainConfig = dataclasses.replace(config(tmp_path / "run"), validate_every=4, log=("tensorboard",))
    fit(clip(), get_method("lora"), make_task(val=2), recipe=LONG, config=settings)
    told: dict[tuple[int, str], float] = {}
    for file in (tmp_path / "run").rglob("*tfevents*"):
        data = file.read_bytes()
        while data:  # records of TensorFlow: length, its checksum, content, its checksum
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            told |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
            data = data[16 + size :]
    for row in rows(tmp_path / "run"):
        assert told[row["step"], "loss"] == pytest.approx(row["loss"])
        if "validation_top1" in row:
            assert told[row["step"], "validation_top1"] == pytest.approx(row["validation_top1"])
