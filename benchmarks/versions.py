"""Two versions of this library beside each other: the same trainings and evaluations, in turn, in one run.

    git worktree add ../before main
    python benchmarks/versions.py --before ../before --threads 1 --clock cpu

Each version runs in a process of its own, which keeps its model and images. Prints for each method and precision the
seconds of an optimizer step of ``fit`` and of scoring the test images of the base classes a second time, the ratio of
the two versions (less is better), and how far their losses are apart: one JSON line each, and a table at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
SIDES = ("before", "after")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a checkout of the other version")
    parser.add_argument("--methods", nargs="+", default=["full", "lora", "dra", "orthcr"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--model", default="icons-small")
    parser.add_argument("--data", default="lab-food")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--images", type=int, default=512, help="that are scored")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return serve(options)
    checkouts = dict(zip(SIDES, (options.before.resolve(), HERE.parents[1]), strict=True))
    children = {side: start(checkout) for side, checkout in checkouts.items()}
    rows = [
        compare(children, method, precision, options.runs)
        for method in options.methods
        for precision in options.precisions
    ]
    print(
        f"{'method':<12}{'precision':<11}{'step before':>12}{'after':>8}{'ratio':>8}{'score before':>14}{'after':>8}",
        end="",
    )
    print(f"{'ratio':>8}{'losses differ':>15}")
    for row in rows:
        numbers = "".join(
            f"{row[f'{what} {side}']:>{width}.3f}"
            for what, widths in (("step", (12, 8, 8)), ("score", (14, 8, 8)))
            for side, width in zip((*SIDES, "ratio"), widths, strict=True)
        )
        print(f"{row['method']:<12}{row['precision']:<11}{numbers}{row['losses differ']:>15.1e}")
    for child in children.values():
        assert child.stdin
        child.stdin.close()
        child.wait()


def start(checkout: Path) -> subprocess.Popen[str]:
    """This script, with the library of a checkout."""
    path = os.pathsep.join(str(checkout / part) for part in ("src", "lab/src"))
    command = [sys.executable, str(HERE), *sys.argv[1:], "--child"]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )


def ask(child: subprocess.Popen[str], *words: str) -> dict[str, Any]:
    assert child.stdin
    assert child.stdout
    child.stdin.write(" ".join(words) + "\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        sys.exit("a version could not run this; its error stands above.")
    return json.loads(answer)


def compare(children: dict[str, subprocess.Popen[str]], method: str, precision: str, runs: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for run in range(runs + 1):  # the first is to warm up
        for side in SIDES if run % 2 else SIDES[::-1]:
            answer = ask(children[side], method, precision)
            if run:
                found[side].append(answer)
    row: dict[str, Any] = {"method": method, "precision": precision}
    for what in ("step", "score"):
        for side in SIDES:
            row[f"{what} {side}"] = round(statistics.median(answer[what] for answer in found[side]), 4)
        row[f"{what} ratio"] = round(row[f"{what} after"] / row[f"{what} before"], 3)
    losses = zip(found["before"][0]["losses"], found["after"][0]["losses"], strict=True)
    row["losses differ"] = max(abs(a - b) / abs(a) for a, b in losses)
    print(json.dumps(row), flush=True)
    return row


def serve(options: argparse.Namespace) -> None:
    """Answers questions on standard input: a method and a precision."""
    import torch
    from measuring import CLOCKS

    from steadyclip import evaluate, get_method, load, load_data
    from steadyclip.training import TrainConfig, fit

    torch.set_num_threads(options.threads)
    clock = CLOCKS[options.clock]
    data = load_data(options.data)
    task = data.task(shots=16, seed=1, subset="base")
    test = data.test_set("base")
    test = test.subset(range(0, len(test), max(1, len(test) // options.images)))
    for line in sys.stdin:
        name, precision = line.split()
        method, model = get_method(name), load(options.model)
        length: dict[str, Any] = {"steps": options.steps, "steps_per_shot": None, "epochs": None}
        recipe = dataclasses.replace(
            method.recipe, **length, learning_rate=1e-4, batch_size=32, warmup_steps=0, clip_norm=1.0
        )
        config = TrainConfig(precision=precision, device="cpu", progress=False, log_every=1, smallest_crop=0.6)
        start = clock()
        result = fit(model, method, task, recipe=recipe, config=config)
        middle = clock()
        evaluate(model, method, test, precision=precision)
        end = clock()
        answer = {"step": (middle - start) / options.steps, "score": end - middle, "losses": result.losses}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
