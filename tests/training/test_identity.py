"""What decides a training is said once, and every fact of it counts: for resuming, for a grid's folders, for rows."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from msgspec import structs
from PIL import Image
from training_world import RECIPE, Everything, clip, config, make_task

from steadyclip.core.errors import SteadyClipError
from steadyclip.data import ImageTask
from steadyclip.evaluation.records import MethodInfo, ModelInfo
from steadyclip.training import TrainConfig, fit
from steadyclip.training.config import DECIDES
from steadyclip.training.run import Run, Untrained, describe, digest, identity


def painted_over(task: ImageTask, part: str = "train") -> ImageTask:
    """The task with one image replaced under its name, by one of the same size."""
    images = getattr(task, part)
    buffer = io.BytesIO()
    Image.new("RGB", (24, 20), (1, 2, 3)).save(buffer, "PNG")
    store = dataclasses.replace(images.store, files={**images.store.files, images.keys[-1]: buffer.getvalue()})
    return dataclasses.replace(task, **{part: dataclasses.replace(images, store=store)})


def described(task: ImageTask | None = None, **changes) -> Run:
    run = describe(clip(), Everything(), task or make_task(val=1), RECIPE, TrainConfig())
    return structs.replace(run, **changes)


RUN = described()
OTHERS = {
    "weights": structs.replace(RUN, model=ModelInfo("tiny-clip", "clip", "0" * 16)),
    "knobs": structs.replace(RUN, method=structs.replace(RUN.method, knobs={"strength": 2.0})),
    "file": structs.replace(RUN, method=structs.replace(RUN.method, files={"anchors": "0" * 16})),
    "recipe": structs.replace(RUN, recipe={**(RUN.recipe or {}), "beta2": 0.9}),
    "no recipe": structs.replace(RUN, recipe=None),
    **{name: structs.replace(RUN, config={**RUN.config, name: "other"}) for name in DECIDES},
    **{
        name: structs.replace(RUN, task=structs.replace(RUN.task, **{name: value}))
        for name, value in {"subset": "base", "shots": 2, "classes": ("white", "red"), "templates": ("{}",)}.items()
    },
    "task seed": structs.replace(RUN, task=structs.replace(RUN.task, seed=2)),
    "train image": described(painted_over(make_task(val=1))),
    "val image": described(painted_over(make_task(val=1), "val")),
}  # fmt: skip


@pytest.mark.parametrize("fact", OTHERS)
def test_every_fact_that_decides_counts(fact: str) -> None:
    assert digest(OTHERS[fact]) != digest(RUN)
    assert len({digest(run) for run in OTHERS.values()}) == len(OTHERS)


def test_what_does_not_decide_does_not_count() -> None:
    same = structs.replace(
        RUN,
        created="later",
        model=ModelInfo("a copy", "clip", RUN.model.weights_hash),
        method=structs.replace(RUN.method, label="a row"),
        config={**RUN.config, "workers": 4, "log_every": 1},
        task=structs.replace(RUN.task, name="moved", skipped=(("a", "b"),)),
        versions={},
    )
    assert identity(same) == identity(RUN)


def test_what_learns_nothing_has_a_smaller_one() -> None:
    model, method = ModelInfo("m", "clip", "w"), MethodInfo("zero-shot", {}, "zero-shot")
    assert set(identity(Untrained(model, method, "fp32"))) == {
        "model.weights_hash", "method.name", "precision",
    }  # fmt: skip
    assert digest(Untrained(model, method, "fp32")) != digest(Untrained(model, method, "bf16"))


def test_an_image_that_was_overwritten_is_another_run(tmp_path: Path) -> None:
    task = make_task()
    fit(clip(), Everything(), task, recipe=RECIPE, config=config(tmp_path / "run"))
    fit(clip(), Everything(), make_task(), recipe=RECIPE, config=config(tmp_path / "run"))  # the same: returned
    changed = painted_over(task)
    assert changed.hash == task.hash
    with pytest.raises(SteadyClipError, match=r"1 of its 16 images have changed since, for instance .*--out"):
        fit(clip(), Everything(), changed, recipe=RECIPE, config=config(tmp_path / "run"))
