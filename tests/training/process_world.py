"""Trainings in several processes over gloo, started as torchrun does, and the same in one."""

from __future__ import annotations

import copy
import dataclasses
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from training_world import (
    RECIPE,
    Everything,
    Harmful,
    captioned_task,
    clip,
    for_two,
    in_process,
    make_task,
    without,
    write_pairs,
)

from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.data import ImageTask
from steadyclip.methods import get_method
from steadyclip.methods.average import Average
from steadyclip.methods.base import Method
from steadyclip.models.sharding import split_over_processes
from steadyclip.models.testing import FAMILIES, tiny
from steadyclip.training import Stopped, TrainConfig, fit
from steadyclip.training.processes import joined

SGD = dataclasses.replace(RECIPE, optimizer="sgd", learning_rate=0.02, steps=4, warmup_steps=0)
"""AdamW enlarges rounding: where a gradient is 0 but for rounding, its step is not."""


def launch(function: Callable[..., Any], *args: Any, processes: int = 2, port: int = 0) -> list[int | None]:
    """What torchrun does; returns the exit codes. ``port``: where they meet, by default a free one."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    count = str(processes)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    started = [
        in_process(function, *args, environment={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    for process in started:
        process.join(180)
    return [process.exitcode for process in started]


def case(name: str, folder: Path) -> tuple[Method, ImageTask, dict[str, Any]]:
    """A method by its name, or a variant of one: the method, what it is trained on, and changes of the config."""
    if name == "arf":
        anchors = folder / "anchors.parquet"
        return get_method("arf", {"anchors": anchors}), captioned_task(), {}
    if name == "prograd":  # where it starts from the frozen model's prompt, the gradient of KL is rounding and no more
        return get_method("prograd", {"init": "some kind of a"}), make_task(), {}
    if name in FAMILIES:
        return get_method("full"), make_task(), {}
    if name == "in parts":
        return get_method("full"), make_task(), {"accumulate": 2}
    if name == "unequal parts":  # 3 and 2 images in parts of one image each
        return get_method("flyp"), without(make_task(8), "red/1.png"), {"accumulate": 3}
    if name == "averaged":
        return Everything(average=Average("uniform")), make_task(), {}
    if name == "validated":
        return get_method("full"), make_task(val=2), {"validate_every": 2, "patience": 1}
    if name == "last block":
        return get_method("full", {"blocks": 1}), make_task(), {}
    return for_two(name), make_task(val=1), {}


def train_in_turn(out: Path, names: list[str], shard: bool = False) -> None:
    """Each into a folder of its own: one pair of processes for all of them."""
    # later on, transformers would write them in one of two processes only
    fresh = {family: tiny(family) for family in ("clip", *FAMILIES) if family == "clip" or family in names}
    for name in names:
        method, task, more = case(name, out.parent)
        config = TrainConfig(out=out / name, progress=False, device="cpu", log_every=2, shard=shard, **more)
        model = copy.deepcopy(fresh.get(name, fresh["clip"]))
        fit(model, method, task, recipe=method.recipe and SGD, config=config)


def anchors_for(folder: Path) -> None:
    """The file that the case "arf" reads."""
    write_pairs(folder / "anchors.parquet", captioned_task().train)


def go_on(out: Path, at: int, optimizer: str, shard: bool = False) -> None:
    """Train on to step ``at``, where a signal stops the last process; both notice at the end of that step."""
    recipe = SGD if optimizer == "sgd" else dataclasses.replace(RECIPE, steps=SGD.steps)
    last = os.environ.get("RANK", "0") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)
    method = Harmful(harm="terminate", at=at if last else 99)
    config = TrainConfig(out=out, progress=False, device="cpu", log_every=1, shard=shard)
    try:
        fit(clip(), method, make_task(), recipe=recipe, config=config)
    except Stopped:
        os._exit(5)


def said(out: Path, function: Callable[[], Any]) -> None:
    """Writes the error of ``function`` beside the rank, and ends as the command line would."""
    try:
        function()
    except SteadyClipError as error:
        (out / f"said-{os.environ['RANK']}").write_text(str(error))
        os._exit(6)


def shard_what_cannot_be(out: Path, name: str) -> None:
    config = TrainConfig(progress=False, device="cpu", shard=True)
    said(out, lambda: fit(clip(), get_method(name), make_task(), config=config))


def meet(out: Path) -> None:
    said(out, lambda: joined(cpu=True))


def go_on_in_folders_of_their_own(out: Path) -> None:
    """Each process has a run folder of its own; that of the first has been trained before."""
    config = TrainConfig(out=out / os.environ["RANK"], progress=False, device="cpu")
    said(out, lambda: fit(clip(), Harmful(at=99), make_task(), config=config))


def half_each(out: Path) -> None:
    """Writes how much of the weights is here, and what ``frozen`` says."""
    model = clip()
    joined(cpu=True)
    get_method("full").attach(model, ["red", "green"])
    split = split_over_processes(model, torch.device("cpu"))
    here = sum(weight.to_local().numel() for weight in split.parameters() if weight.ndim)
    try:
        with split.frozen():
            refused = ""
    except ModelError as error:
        refused = str(error)
    whole = sum(weight.numel() for weight in model.parameters())
    (out / f"half-{os.environ['RANK']}").write_text(f"{here / whole:.3f} {refused}")
