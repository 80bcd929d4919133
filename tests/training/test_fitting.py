"""What does not fit into the memory is computed in parts, and what cannot be is said in a line, with nothing lost."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from training_world import RECIPE, clip, make_task, same

from steadyclip.core import precision
from steadyclip.core.errors import OutOfMemory, SteadyClipError, UsageError
from steadyclip.core.precision import best_device, best_precision
from steadyclip.evaluation.records import Run
from steadyclip.methods import get_method
from steadyclip.models import DualEncoder
from steadyclip.models.features import image_features
from steadyclip.models.testing import tiny
from steadyclip.training import TrainConfig, fit
from steadyclip.training.monitor import Losses
from steadyclip.training.step import Step

GRADIENTS = Step.gradients


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A device on which only four images fit at once, as a training sees it; the parts of every attempt."""
    attempts: list[int] = []

    def limited(step: Step, batch, *args, **options):
        attempts.append(step.accumulate)
        found = GRADIENTS(step, batch, *args, **options)  # leaves gradients behind, as a half-done step does
        if -(-len(batch.labels_B) // step.accumulate) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return found

    monkeypatch.setattr(Step, "gradients", limited)
    return attempts


def run(out: Path | None = None, **options) -> tuple[dict[str, torch.Tensor], Run]:
    model = clip()
    config = TrainConfig(**{"out": out, "progress": False, "device": "cpu", "checkpoint_minutes": None, **options})
    result = fit(model, get_method("lora"), make_task(), recipe=RECIPE, config=config)
    return model.trained_state(), result.run


def test_parts_are_found_once_and_give_what_these_parts_give(small: list[int], capsys) -> None:
    expected, _ = run(accumulate=2)
    small.clear()
    capsys.readouterr()
    found, record = run(microbatch="auto")
    assert same(found, expected)
    assert small == [1, *[2] * RECIPE.steps]
    assert record.results.choices == {"parts": 2}
    line = "a batch of 6 images in 1 part does not fit on cpu: it is computed in 2 parts from here on"
    assert capsys.readouterr().err.count(line) == 1


def test_a_resumed_training_knows_its_parts(small: list[int], tmp_path: Path, monkeypatch) -> None:
    expected, _ = run(microbatch="auto")
    small.clear()
    with monkeypatch.context() as patched:
        patched.setattr(Losses, "look", lambda self: stop_after(small, 4))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, microbatch="auto", checkpoint_steps=1)
    small.clear()
    found, record = run(tmp_path, microbatch="auto")
    assert set(small) == {2}
    assert record.results.choices == {"parts": 2}
    assert same(found, expected)


def stop_after(attempts: list[int], number: int) -> None:
    if len(attempts) > number:
        raise KeyboardInterrupt


def test_without_auto_a_line_says_what_helps_and_nothing_is_lost(small: list[int], tmp_path: Path, monkeypatch) -> None:
    limited = Step.gradients

    def later(step: Step, batch, *args, **options):
        if len(small) < 3:
            small.append(0)
            return GRADIENTS(step, batch, *args, **options)
        return limited(step, batch, *args, **options)

    monkeypatch.setattr(Step, "gradients", later)
    with pytest.raises(OutOfMemory) as caught:
        run(tmp_path)
    assert str(caught.value) == (
        "out of memory: a batch of 6 images in 1 part does not fit on cpu. Give `steadyclip train` --microbatch auto, "
        "which finds parts that fit, or the row accumulate=2. All of the 3 steps before are saved in "
        f"{tmp_path}: the same command goes on from there."
    )
    _, record = run(tmp_path, microbatch="auto")
    assert record.results.steps == RECIPE.steps
    assert small[3:] == [1, 1, *[2] * (RECIPE.steps - 3)]  # three steps are not done again


def test_a_single_image_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Step, "gradients", full)
    with pytest.raises(OutOfMemory, match=r"a batch of 6 images in 6 parts does not fit on cpu\. Choose a smaller"):
        run(microbatch="auto")


def test_other_errors_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args, **options):
        raise RuntimeError("a bug")

    monkeypatch.setattr(Step, "gradients", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        run(microbatch="auto")


def test_scoring_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(DualEncoder, "run", full)
    with pytest.raises(SteadyClipError, match=r"64 images at once do not fit on cpu\. Lower batch_size"):
        image_features(tiny("clip"), make_task().train)


# ---- the arithmetic of a device


def test_auto_is_bf16_only_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert [best_precision(asked, "cpu") for asked in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]
    with pytest.raises(UsageError, match=r"precision='fp16' must be one of auto, fp32, bf16"):
        best_precision("fp16", "cpu")  # pyright: ignore
    for there in (True, False):
        precision._has_bf16.cache_clear()
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, there=there: there)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
        found = [best_precision(asked, "cuda:0") for asked in ("auto", "fp32", "bf16")]
        assert found == (["bf16", "fp32", "bf16"] if there else ["fp32"] * 3)
        said = "warning: Old GPU cannot compute in bf16: fp32 is taken instead.\n"
        assert capsys.readouterr().err == ("" if there else said)
    precision._has_bf16.cache_clear()


def test_a_run_records_the_precision_it_had(tmp_path: Path) -> None:
    _, record = run(tmp_path)
    assert record.config["precision"] == "fp32"
    assert Run.read(tmp_path / "run.json").config["precision"] == "fp32"
    run(tmp_path, precision="fp32")  # the same run


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "cuda:-1", "CUDA", "cpu:0", ""])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=rf"device {name!r} is not there: one of cpu"):
        best_device(name)
