"""The trainer: takes a model, a method and a task, and gives a trained model and its run folder.

Nothing random carries over from step to step: torch is seeded anew with (seed, step); order and augmentation depend on
(seed, epoch, key). So a resumed training gives the same weights, bit for bit, as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from msgspec.structs import replace

from steadyclip.core.errors import DataError, ModelError, SteadyClipError, UsageError
from steadyclip.core.precision import arithmetic, best_device, best_precision
from steadyclip.core.provenance import now, numeric_flags
from steadyclip.core.seeds import step_seed
from steadyclip.evaluation.records import Results, Run
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.models.compiling import compiled
from steadyclip.models.sharding import split_over_processes
from steadyclip.objectives.streams import Stream
from steadyclip.training.cache import fill_head
from steadyclip.training.config import TrainConfig, check_recipe
from steadyclip.training.loop import Loop
from steadyclip.training.processes import check_shard, expect_one_start, joined
from steadyclip.training.run import RunFolder, describe, identity, restore

if TYPE_CHECKING:
    from accelerate import Accelerator

    from steadyclip.data import ImageTask
    from steadyclip.models import DualEncoder


@dataclass(frozen=True)
class FitResult:
    """A finished training. The model that was given is now the trained one, in evaluation mode.

    Attributes:
        run: the content of ``run.json``, with its ``results``.
        losses: mean loss of each interval of ``log_every`` steps.
        seconds: time in training steps and their checkpoints, summed over interruptions. Encoding by the frozen model
            and filling the head before the first step are not counted; without steps, filling the head is the training.
        images_per_second: training images over that time; None when no image was trained on.
    """

    run: Run
    losses: list[float]
    seconds: float
    images_per_second: float | None


def fit(
    model: DualEncoder,
    method: Method,
    task: ImageTask,
    *,
    recipe: Recipe | None = None,
    config: TrainConfig | None = None,
    resume: Literal["auto", False] = "auto",
) -> FitResult:
    """Train ``model`` by ``method`` on ``task``, in place.

    Under ``accelerate launch`` or ``torchrun`` every process calls this; each takes its part of every batch.

    Args:
        model: freshly loaded; it is moved to the device that accelerate gives this process. With ``config.shard`` it
            stays where it is, and only its part of a copy is on that device during the training.
        method: attaches what is trained and says what is minimized.
        task: training and validation images, names and templates.
        recipe: optimization settings; the method's own by default.
        config: where and how to run.
        resume: "auto" continues where a run of the same settings in ``config.out`` stopped, and returns it if it is
            finished; False refuses a folder with a run.

    Raises:
        ModelError: the model has been trained or adapted before.
        UsageError: the recipe makes no sense, the batch is too small for the processes, or ``config.shard`` does not
            go with the method.
        SteadyClipError: the processes cannot meet, or do not see the same run; the folder holds another run; the loss
            is not finite; a file cannot be written; stopped by a signal (after saving). The message says how to
            continue.
    """
    config = config or TrainConfig()
    recipe = (recipe or method.recipe) if method.recipe else None
    _check(model, task, recipe, config)
    method.check()
    # Precision is ours (autocast around each pass), so that several trainings in one process may differ in it.
    device = best_device(config.device)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    place: dict[str, Any] = {"log_with": list(config.log), "project_dir": config.out} if config.log else {}
    config = dataclasses.replace(config, precision=best_precision(config.precision, device))
    accelerator = joined(cpu=device == "cpu", mixed_precision="no", **_there(config, place))
    if not config.shard:
        model.to(accelerator.device)
    # Before a folder is made: streams may need files that are missing.
    streams = {name: spec.build(model, task) for name, spec in method.streams().items()} if recipe else {}
    run = describe(model, method, task, recipe, config)
    folder = RunFolder(config.out, run, task) if config.out else None
    accelerator.wait_for_everyone()  # all processes have read the folder before one writes
    with folder.owned() if folder and accelerator.is_main_process else contextlib.nullcontext():
        if folder and folder.exists and not resume:
            raise SteadyClipError(f"{folder.path} already holds a run: choose another folder with --out, or resume it.")
        return _fit(model, method, task, streams, recipe, config, accelerator, run, folder)


def _fit(
    model: DualEncoder,
    method: Method,
    task: ImageTask,
    streams: Mapping[str, Stream],
    recipe: Recipe | None,
    config: TrainConfig,
    accelerator: Accelerator,
    run: Run,
    folder: RunFolder | None,
) -> FitResult:
    """The training, in a folder that this process owns or without one."""
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
    # the caller's random state is as it was when the training is over
    with torch.random.fork_rng(cuda), compiled(model, "off" if config.shard else config.compile) as compiler:
        torch.manual_seed(step_seed(config.seed, "adapt"))
        checkpoint = folder.checkpoint() if folder and not folder.run.finished else None
        finished = folder is not None and folder.run.finished
        expect_one_start(folder, None if finished else checkpoint.step if checkpoint else 0)
        if folder and finished:
            restore(model, method, folder.run.task.classes, folder.path)
            return _result(folder.run, folder.logged())
        loop = None
        try:
            method.attach(model, task.classes)
            method.check_model(model, task)
            if config.shard:
                check_shard(method, model, accelerator.num_processes)
            if recipe is not None:
                trained = split_over_processes(model, accelerator.device) if config.shard else model
                loop = Loop(trained, method, task, streams, recipe, config, accelerator, folder, compiler)
        except SteadyClipError:  # nothing was trained, so the model is as it was
            model.detach_all()
            model.requires_grad_(False)
            raise
        if folder and accelerator.is_main_process:
            shown = {digest for stream in streams.values() for digest in getattr(stream, "digests", ())}
            folder.start(task.split_json() | ({"shown": sorted(shown)} if shown else {}))
        if loop and config.log:
            accelerator.init_trackers("steadyclip", config=flat_facts(run))
        results = loop.run(checkpoint) if loop else _solve(model, method, task, config)
        if loop and config.log:
            accelerator.end_training()
    if loop and config.shard:
        model.load_trained_state(loop.model.trained_state())
    model.eval()
    if folder and accelerator.is_main_process:
        folder.finish(model.trained_state(), results)
    accelerator.wait_for_everyone()
    run = folder.run if folder and folder.run.finished else replace(run, results=results, completed=now())
    return _result(run, loop.losses.rows if loop else [])


def _there(config: TrainConfig, options: dict[str, Any]) -> dict[str, Any]:
    """The ``options``, once it is clear that every tracker is installed: accelerate would leave others out."""
    from accelerate.tracking import get_available_trackers

    there = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
    if missing := [name for name in config.log if name not in there]:
        raise UsageError(f"--log {missing[0]} needs a package that is not installed here: pip install {missing[0]}.")
    if config.log and config.out is None:
        raise UsageError("--log needs a run folder: give one with --out.")
    return options


def flat_facts(run: Run) -> dict[str, Any]:
    """What trackers show beside a run: the facts that decide it, as numbers and texts."""
    facts = {name: value for name, value in identity(run).items() if name not in ("task.classes", "task.templates")}
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in facts.items()}


def _check(model: DualEncoder, task: ImageTask, recipe: Recipe | None, config: TrainConfig) -> None:
    if len(model.adapters) or any(p.requires_grad for p in model.parameters()):
        raise ModelError(f"{model.name} has been trained or adapted already: load it afresh before training.")
    if not len(task.train):
        raise DataError(f"{task.name} has no training images.")
    if len(task.classes) < 2:
        raise DataError(f"{task.name} has only {len(task.classes)} class: there is nothing to tell apart.")
    if recipe is not None:
        check_recipe(recipe)
    config.check()


def _solve(model: DualEncoder, method: Method, task: ImageTask, config: TrainConfig) -> Results:
    """Fill the head from the frozen model's features, where it can be filled; there are no steps."""
    start, choices, encoded = time.perf_counter(), {}, 0
    if method.head.solves:
        planner = method.planner(model)
        planner.arithmetic = lambda: arithmetic(model.device, config.precision)
        choices, encoded = fill_head(planner, task, config)
    seconds = time.perf_counter() - start
    return Results(
        steps=0, choices=choices, seconds=seconds, images_per_second=encoded / seconds if encoded else None,
        device=model.device.type, threads=torch.get_num_threads(), flags=numeric_flags(model.device.type),
    )  # fmt: skip


def _result(run: Run, rows: list[dict[str, Any]]) -> FitResult:
    assert run.results is not None
    return FitResult(run, [row["loss"] for row in rows], run.results.seconds, run.results.images_per_second)
