"""A small world for grids: five classes of small images on disk, a tiny CLIP, and short recipes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from steadyclip.experiments.bench import GridResult, run_bench
from steadyclip.experiments.launchers import Launcher, forkserver, side_by_side
from steadyclip.experiments.protocols import Plan, base_to_new
from steadyclip.experiments.rows import parse_rows
from steadyclip.models.testing import write_tiny
from steadyclip.training import TrainConfig

ROWS = ("zero-shot", "linear-probe", "lora[steps=4,batch_size=6,learning_rate=0.001]")
"""A row that learns nothing, one that learns from frozen features, one that is trained."""


def build(folder: Path) -> None:
    """``folder/photos`` and ``folder/model``."""
    rng = np.random.default_rng(0)
    for label in range(5):
        place = folder / "photos" / f"class {label}"
        place.mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 90, (32, 32, 3)) + np.array([label * 40, 160 - label * 40, 80])
            Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    (folder / "model").mkdir()
    write_tiny("clip", folder / "model")


def table(
    world: Path,
    out: Path,
    rows: Sequence[str] = ROWS,
    seeds: Sequence[int] = (1, 2),
    plan: Plan | None = None,
    jobs: int = 1,
    log: Any = lambda line: None,
    launcher: Launcher | None = None,
    wise_alphas: Sequence[float] = (),
    **config: Any,
) -> GridResult:
    """The table of ``rows`` on the world's photos, base to new with 3 shots unless another plan is given."""
    return run_bench(
        plan or base_to_new([str(world / "photos")], 3),
        parse_rows(rows),
        seeds,
        model=str(world / "model"),
        out=out,
        config=TrainConfig(**{"progress": False, "device": "cpu", "checkpoint_steps": 1, **config}),
        launcher=launcher or side_by_side(jobs),
        wise_alphas=wise_alphas,
        log=log,
    )


def contents(out: Path) -> dict[str, Any]:
    """Every record by its path, without times, dates, threads and the state of the checkout."""
    found = {}
    for file in sorted(out.glob("*/records/*.json")):
        content = json.loads(file.read_text())
        for name in ("created", "commit", "seconds", "images_per_second", "threads", "checksum"):
            content.pop(name)
        if run := content["training"]:
            for name in ("created", "commit", "completed"):
                run.pop(name)
            for name in ("seconds", "images_per_second", "threads"):
                run["results"].pop(name)
        found[file.relative_to(out).as_posix()] = content
    return found


# ---- in processes of their own


def in_process(function: Any, *args: Any) -> Any:
    """Start ``function(*args)`` in a fresh process with the libraries loaded; returns the process."""
    process = forkserver().Process(target=function, args=args)
    process.start()
    return process


def killed_after(world: Path, out: Path, steps: int) -> None:
    """Runs the table and kills itself at the ``steps``-th training step, counted over all cells."""
    from steadyclip.training.step import Step

    count, gradients = [0], Step.gradients

    def fatal(self: Step, *args: Any) -> Any:
        count[0] += 1
        if count[0] == steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return gradients(self, *args)

    Step.gradients = fatal
    table(world, out)


def run_table(world: Path, out: Path, jobs: int = 1) -> None:
    table(world, out, jobs=jobs)


def run_slow_table(world: Path, out: Path) -> None:
    """Two trainings that take hours, side by side."""
    table(world, out, ["lora[steps=100000,batch_size=6]"], jobs=2, checkpoint_steps=None)
