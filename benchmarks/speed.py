"""Speed beside bare transformers code: the same weights and images, in one run, the two sides in turn.

    python benchmarks/speed.py                      # icons-small on lab-things
    python benchmarks/speed.py --model DIRECTORY    # any CLIP checkpoint of transformers

Prints medians and ratios. Evaluation: images/s of ``image_features`` over those of a plain loop (more is better).
Training: seconds per step of ``fit`` with the method ``full`` over those of a plain loop (less is better). The plain
loops decode and prepare images by the very same code, so that what is measured is the library around it.
"""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import in_turn

from steadyclip import get_method, load, load_data
from steadyclip.data import ImageSet, ImageTask
from steadyclip.methods import Recipe
from steadyclip.models import DualEncoder
from steadyclip.models.features import image_features
from steadyclip.training import TrainConfig, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="icons-small")
    parser.add_argument("--data", default="lab-things")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024, help="evaluated per run")
    parser.add_argument("--steps", type=int, default=20, help="trained per run")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = load_data(options.data)
    test, task = data.test_set(), data.task(shots=16, seed=1, subset="base")
    test = test.subset(range(min(options.images, len(test))))
    print(
        f"{options.model} on {options.data}, {options.threads} threads, torch {torch.__version__}, {options.runs} runs"
    )

    model = load(options.model)
    ours, peer = in_turn(
        options.runs, {"ours": lambda: evaluate_ours(model, test), "bare": lambda: evaluate_bare(model, test)}
    ).values()
    n = len(test)
    print(
        f"evaluation  steadyclip {n / ours:7.1f} images/s  bare loop {n / peer:7.1f} images/s  ratio {peer / ours:.3f}"
    )
    ours, peer = in_turn(
        options.runs,
        {
            "ours": lambda: train_ours(options.model, task, options.steps),
            "bare": lambda: train_bare(options.model, task, options.steps),
        },
    ).values()
    s = options.steps
    print(
        f"training    steadyclip {ours / s:7.4f} s/step    bare loop {peer / s:7.4f} s/step    ratio {ours / peer:.3f}"
    )
    startup("import steadyclip", [sys.executable, "-c", "import steadyclip"], options.runs)
    startup("--help", [str(Path(sys.executable).parent / "steadyclip"), "--help"], options.runs)
    startup("train --help", [str(Path(sys.executable).parent / "steadyclip"), "train", "--help"], options.runs)


def evaluate_ours(model: DualEncoder, images: ImageSet) -> None:
    image_features(model, images, batch_size=64)


@torch.inference_mode()
def evaluate_bare(model: DualEncoder, images: ImageSet) -> None:
    clip, prepare = model.network, model.preprocess
    features = []
    for first in range(0, len(images), 64):
        batch = torch.stack([prepare(images.read(i)) for i in range(first, min(first + 64, len(images)))])
        features.append(F.normalize(clip.visual_projection(clip.vision_model(batch).pooler_output), dim=-1))
    torch.cat(features)


def train_ours(name: str, task: ImageTask, steps: int) -> None:
    model, recipe = load(name), Recipe(learning_rate=1e-4, weight_decay=0.1, steps=steps, clip_norm=1.0)
    fit(model, get_method("full"), task, recipe=recipe, config=TrainConfig(progress=False))


def train_bare(name: str, task: ImageTask, steps: int) -> None:
    model = load(name)
    clip, prepare = model.network.requires_grad_(True), model.preprocess
    tokens = model.tokenize([task.templates[0].format(c) for c in task.classes])
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-4, weight_decay=0.1)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(1)).tolist() * (
        1 + 32 * steps // len(task.train)
    )
    rng = random.Random(1)
    for step in range(steps):
        rows = order[32 * step : 32 * step + 32]
        images = torch.stack([prepare.train(task.train.read(i), rng) for i in rows])
        labels = torch.tensor([task.train.labels[i] for i in rows])
        image = F.normalize(clip.visual_projection(clip.vision_model(images).pooler_output), dim=-1)
        text = F.normalize(clip.text_projection(clip.text_model(**tokens).pooler_output), dim=-1)
        loss = F.cross_entropy(clip.logit_scale.exp() * image @ text.T, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()


def startup(what: str, command: list[str], runs: int) -> None:
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    python = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        python.append(time.perf_counter() - start)
    print(f"{what:<18} {statistics.median(times[1:]):.3f} s   (python itself {statistics.median(python):.3f} s)")


if __name__ == "__main__":
    main()
