"""How the recipes for icons-tiny were chosen: base-to-new inside the base classes of `icons`; no test image is seen.

    python benchmarks/choose_settings.py "full[learning_rate=1e-4]" "orthcr[learning_rate=3e-4]"

Trains each row on 16 shots of the first 17 classes (as many steps as the real task of 34 classes has) and scores it on
the validation images of those, and on the training and validation images of the other 17 base classes. Prints base,
new and H.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from statistics import harmonic_mean
from typing import Any

import torch

from steadyclip import evaluate, fit, load, load_data
from steadyclip.experiments.rows import Row, parse_rows
from steadyclip.experiments.settings import settings_for
from steadyclip.training import TrainConfig

MODEL, DATA, SEED, HALF = "icons-tiny", "icons", 1, 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+", help="as for `steadyclip bench --methods`")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(DATA)
    few = data.task(shots=16, seed=SEED, subset="base")
    every = data.task(shots=None, seed=SEED, subset="base")
    last = len(few.classes)
    task = dataclasses.replace(few, train=few.train.of_classes(range(HALF)), val=every.val.of_classes(range(HALF)))
    new = every.train.of_classes(range(HALF, last)).joined(every.val.of_classes(range(HALF, last)))
    print(f"{len(task.train)} images to train, {len(task.val)} of their classes and {len(new)} of others to score")
    for row in parse_rows(["zero-shot", *options.rows], settings_for(MODEL)):
        model = load(MODEL)
        if row.recipe is not None:
            length = row.recipe.total_steps(len(few.train), last)
            recipe = dataclasses.replace(row.recipe, steps=length, epochs=None, steps_per_shot=None)
            fit(model, row.method, task, recipe=recipe, config=config(row, options.precision))
        base, unseen = (top1(model, row, images) for images in (task.val, new))
        print(f"{row.label:<60} base {base:.1f}  new {unseen:.1f}  H {harmonic_mean((base, unseen)):.1f}", flush=True)


def config(row: Row, precision: Any) -> TrainConfig:
    changes: dict[str, Any] = {"precision": precision, **row.config}
    return TrainConfig(seed=SEED, progress=False, checkpoint_minutes=None, **changes)


def top1(model: Any, row: Row, images: Any) -> float:
    metrics = evaluate(model, row.method, images).metrics
    return 100 * metrics.top1 if metrics else math.nan


if __name__ == "__main__":
    main()
