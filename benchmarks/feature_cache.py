"""CoOp and Tip-Adapter-F with and without their cache: the same losses, and a step without the image tower.

    python benchmarks/feature_cache.py                     # icons-small, then a random ViT-B/16
    python benchmarks/feature_cache.py --models icons-small

Prints seconds for each optimizer step of `fit` (the cache is filled before that clock starts),
their ratio, and the largest relative difference of the losses.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import time

import torch
from measuring import CLOCKS, random_vit_b16

from steadyclip import get_method, load, load_data
from steadyclip.training import FitResult, TrainConfig, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["icons-small", "vit-b16"])
    parser.add_argument("--methods", nargs="+", default=["coop", "tip-adapter-f"])
    parser.add_argument("--shots", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = load_data("lab-things").task(shots=options.shots, seed=1, subset="base")
    print(
        f"{len(task.train)} images, {len(task.classes)} classes, {options.threads} threads, torch {torch.__version__}"
    )
    for name, called in itertools.product(options.models, options.methods):
        model = random_vit_b16() if name == "vit-b16" else load(name)
        words = {"init": "none" if name == "vit-b16" else "an icon of a"}
        method = get_method(called, words if called == "coop" else {})
        recipe = dataclasses.replace(method.recipe, epochs=options.epochs, views=1, batch_size=32)
        found: dict[str, tuple[FitResult, float]] = {}
        for cache in ("auto", "off"):
            start, before = time.perf_counter(), CLOCKS[options.clock]()
            config = TrainConfig(cache=cache, progress=False, log_every=1)
            result = fit(copy.deepcopy(model), method, task, recipe=recipe, config=config)
            spent = CLOCKS[options.clock]() - before
            wall = time.perf_counter() - start
            found[cache] = result, spent * result.seconds / wall
        (cached, fast), (plain, slow) = found["auto"], found["off"]
        steps = len(plain.losses)
        error = max(abs(a - b) / abs(b) for a, b in zip(cached.losses, plain.losses, strict=True))
        print(
            f"{name:<12} {called:<14} {steps} steps  cached {fast / steps:.3f} s  without {slow / steps:.3f} s a step  "
            f"ratio {fast / slow:.3f}  losses differ by {error:.1e}"
        )


if __name__ == "__main__":
    main()
