"""Every row of the table of speed, in one run on one device, written to one JSON file.

    python benchmarks/gpu.py                                          # a CUDA GPU: under 8 minutes
    python benchmarks/gpu.py --device cpu --tiny                      # only to see that it runs
    python benchmarks/gpu.py --device cpu --model icons-small --data lab-food --rows features fit

The model is a CLIP ViT-B/16 with random weights, on which speed and memory do not depend, so nothing is downloaded. The
images are JPEG files of 500 x 375 pixels that are made first. Each row has a ratio of two measurements of this run and
a target; it is printed as a line of JSON as soon as it is there, and all of them as a table at the end. A row that
could not be measured says why. What would begin after ``--minutes`` is left out.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from measuring import CLOCKS, LiveBytes, in_turn, random_vit_b16
from PIL import Image

from steadyclip import get_method, load, load_data
from steadyclip.core.errors import SteadyClipError
from steadyclip.core.precision import arithmetic, best_precision
from steadyclip.data import ImageData, ImageTask
from steadyclip.methods import Recipe
from steadyclip.models import DualEncoder
from steadyclip.models.compiling import compiled
from steadyclip.models.features import evaluating, image_features
from steadyclip.models.testing import tiny
from steadyclip.objectives import Batch
from steadyclip.training import TrainConfig, fit
from steadyclip.training.step import Step

Ratio = tuple[float, float]
"""What is measured, and what it is compared with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", help="a model of yours instead of the random one")
    parser.add_argument("--data", help="images of yours instead of JPEG files that are made")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--workers", type=int, default=max(0, (os.cpu_count() or 1) - 1))
    parser.add_argument("--images", type=int, help="files of the rows that read some; 2048")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--runs", type=int, default=10, help="timed steps of each side")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: on a busy machine, one thread, no workers"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tiny", action="store_true", help="sizes and a compiler that take seconds")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    options = parser.parse_args()
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("there is no CUDA GPU here: --device cpu")
    torch.set_num_threads(options.threads)
    options.precision = best_precision(options.precision, options.device)
    options.batch, options.classes = (6, 4) if options.tiny else (32, 100)
    options.images = options.images or (24 if options.tiny else 2048)
    if options.tiny:
        options.runs = 2
        torch.compile = functools.partial(torch.compile, backend="aot_eager")  # pyright: ignore
    cuda = options.device.startswith("cuda")
    about = {
        "device": torch.cuda.get_device_name(options.device) if cuda else platform.machine(),
        "torch": torch.__version__, "precision": options.precision, "workers": options.workers,
        "threads": torch.get_num_threads(), "tiny": options.tiny, "model": options.model or "random",
    }  # fmt: skip
    print(json.dumps(about), flush=True)
    start, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, Path(folder))
        for name in options.rows:
            row = measured(name, bench) if time.monotonic() - start < 60 * options.minutes else {"left out": "no time"}
            rows.append({"row": name, "what": ROWS[name][0], **row})
            print(json.dumps(rows[-1]), flush=True)
            options.out.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    print()
    for row in rows:
        figure = (
            f"{row['ratio']:.3f}  target {row['target']}" if "ratio" in row else f"- ({next(reversed(row.values()))})"
        )
        print(f"{row['what']:<72} {figure}")


def measured(name: str, bench: Bench) -> dict[str, Any]:
    _, target, call = ROWS[name]
    start = time.monotonic()
    try:
        this, other = call(bench)
    except (SteadyClipError, RuntimeError) as error:  # the other rows are still of use
        return {"failed": " ".join(str(error).split())[:300]}
    return {
        "this": this, "other": other, "ratio": this / other, "target": target,
        "seconds": round(time.monotonic() - start, 1),
    }  # fmt: skip


class Bench:
    """What the rows share: the model, random batches, files of images."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder, self.device = options, folder, torch.device(options.device)
        self.names = [f"thing {i}" for i in range(options.classes)]

    @functools.cached_property
    def _model(self) -> DualEncoder:
        if self.options.model:
            return load(self.options.model)
        return tiny("clip") if self.options.tiny else random_vit_b16()

    def model(self) -> DualEncoder:
        return copy.deepcopy(self._model).to(self.device)

    def batch(self, images: int) -> Batch:
        draw = torch.Generator().manual_seed(1)
        size = images, 3, *self._model.preprocess.size
        levels = torch.randint(0, 256, size, generator=draw, dtype=torch.uint8).to(self.device)
        labels = torch.arange(images, device=self.device) % self.options.classes
        return Batch(labels, tuple(map(str, range(images))), levels)

    def step(self, method: str, how: Literal["on", "off"], parts: int = 1, names: list[str] | None = None) -> Stepping:
        return Stepping(self, method, how, parts, names or self.names)

    @functools.cached_property
    def photos(self) -> Path:
        """Folders of JPEG files, a tenth of them of other pixels than the rest; enough for one pass of ``fit``."""
        root, draw = self.folder / "photos", np.random.default_rng(0)
        count = 8 if self.options.tiny else 64
        for i in range(count):
            coarse = draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
            image.save(self.folder / f"{i}.jpg", quality=90)
        for i in range(self.options.images):
            for split in ("train", "test"):
                place = root / split / f"thing {i % 8}"
                place.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / f"{i % count}.jpg", place / f"{i}.jpg")
        return root

    def data(self) -> ImageData:
        return load_data(self.options.data or str(self.photos))

    def task(self) -> ImageTask:
        task = self.data().task(None, 1)
        return dataclasses.replace(task, train=task.train.subset(range(min(self.options.images, len(task.train)))))


class Stepping:
    """One optimizer step of a method, as a call: gradients and AdamW."""

    def __init__(self, bench: Bench, method: str, how: Literal["on", "off"], parts: int, names: list[str]) -> None:
        self.bench, self.how = bench, how
        self.network = bench.model()
        chosen = get_method(method)
        chosen.attach(self.network, names)
        self.network.adapters.train()
        self.work = Step(chosen, self.network, names, ["a photo of a {}."], parts)
        precision = bench.options.precision
        self.work.planner.arithmetic = lambda: arithmetic(self.network.device, precision)
        self.optimizer = torch.optim.AdamW(self.work.trained.values(), lr=1e-6, fused=True)
        self.batch = bench.batch(bench.options.batch)

    def __call__(self) -> None:
        self.work.gradients(self.batch, seed=1)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def seconds(self) -> float:
        with compiled(self.network, self.how) as made:
            found = seconds_of(self.bench, self)
        if made and made.reason:
            raise SteadyClipError(f"not compiled: {made.reason}")
        return found

    def peak(self, images: int) -> float:
        """Bytes of tensors at the worst moment of one step."""
        self.batch = self.bench.batch(images)
        self()  # makes the optimizer's state
        if self.bench.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self()
            return torch.cuda.max_memory_allocated()
        with LiveBytes(self.network.parameters()) as live:
            self()
        return live.peak


def seconds_of(bench: Bench, call: Callable[[], None]) -> float:
    options = bench.options
    return in_turn(options.runs, {"": call}, options.clock, options.device)[""]


# ---- rows


def full(bench: Bench) -> Ratio:
    return bench.step("full", "on").seconds(), bare(bench)


def bare(bench: Bench) -> float:
    """Full fine-tuning as one would write it with transformers: eager, the prompts through the text tower each step."""
    model, options = bench.model(), bench.options
    clip = model.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=1e-6)
    batch = bench.batch(options.batch)
    tokens = {
        name: ids.to(bench.device) for name, ids in model.tokenize([f"a photo of a {n}." for n in bench.names]).items()
    }

    def step() -> None:
        assert batch.images_BCHW is not None
        pixels = model.preprocess.normalize(batch.images_BCHW)
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=options.precision == "bf16"):
            image = clip.visual_projection(clip.vision_model(pixels).pooler_output)
            text = clip.text_projection(clip.text_model(**tokens).pooler_output)
        image, text = F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)
        F.cross_entropy(clip.logit_scale.exp() * image @ text.T, batch.labels_B).backward()
        optimizer.step()
        optimizer.zero_grad()

    return seconds_of(bench, step)


def own(method: str) -> Callable[[Bench], Ratio]:
    return lambda bench: (bench.step(method, "on").seconds(), bench.step(method, "off").seconds())


def fit_whole(bench: Bench) -> Ratio:
    """Images/s of ``fit`` from files, and of its step alone. Every image is seen once, so none is decoded already."""
    options, task = bench.options, bench.task()
    compile: Literal["on", "off"] = "on" if bench.device.type == "cuda" else "off"
    steps = len(task.train) // options.batch

    def seconds(steps: int, out: Path | None) -> float:
        config = TrainConfig(
            out=out, device=options.device, precision=options.precision, workers=options.workers, compile=compile,
            progress=False, log_every=max(1, steps // 8), checkpoint_minutes=None,
        )  # fmt: skip
        recipe = Recipe(learning_rate=1e-6, steps=steps, batch_size=options.batch)
        start = CLOCKS[options.clock]()
        fit(bench.model(), get_method("full"), task, recipe=recipe, config=config)
        return CLOCKS[options.clock]() - start

    if options.clock == "cpu":  # what is before the first step and after the last is in both
        rate = (steps - 1) * options.batch / (seconds(steps, None) - seconds(1, None))
    else:
        seconds(steps, bench.folder / "run")
        lines = (bench.folder / "run" / "log.jsonl").read_text().splitlines()
        rates = [json.loads(line)["images_per_second"] for line in lines]
        rate = statistics.median(rates[len(rates) // 4 :])  # the first ones start workers and compile
    return rate, options.batch / bench.step("full", compile, names=list(task.classes)).seconds()


def features(bench: Bench) -> Ratio:
    """Images/s of ``image_features`` from files, and of the tower alone on the same pixels."""
    options, model = bench.options, bench.model()
    test, size = bench.data().test_set(), min(64, options.images)
    test = test.subset(range(min(options.images, len(test))))
    batch = bench.batch(size).images_BCHW

    def alone() -> None:
        with evaluating(model), arithmetic(bench.device, options.precision):
            model.run("image", model.preprocess.normalize(batch))

    seconds = seconds_of(bench, alone)
    start = CLOCKS[options.clock]()
    image_features(model, test, batch_size=size, workers=options.workers, precision=options.precision)
    return len(test) / (CLOCKS[options.clock]() - start), size / seconds


def coop(bench: Bench) -> Ratio:
    """Seconds of a step of CoOp, with the features of its images cached and without."""
    options, task = bench.options, bench.task()
    few = dataclasses.replace(task, train=task.train.subset(range(0, len(task.train), max(1, len(task.train) // 256))))
    recipe = Recipe(learning_rate=1e-4, epochs=2, batch_size=options.batch, views=1)
    found = []
    for cache in ("auto", "off"):
        config = TrainConfig(
            device=options.device, precision=options.precision, workers=options.workers, cache=cache, progress=False
        )
        result = fit(bench.model(), get_method("coop", {"init": "none"}), few, recipe=recipe, config=config)
        assert result.run.results
        found.append(result.seconds / result.run.results.steps)
    return found[0], found[1]


def classes(bench: Bench) -> Ratio:
    """Peak memory of a step among 1,000 classes and among 100."""
    sizes = (12, 4) if bench.options.tiny else (1000, 100)
    many, few = (
        bench.step("full", "off", names=[f"thing {i}" for i in range(size)]).peak(bench.options.batch) for size in sizes
    )
    return many, few


def parts(bench: Bench) -> Ratio:
    """Peak memory of a step of FLYP: 512 images in 16 parts, and 32 at once."""
    many, number = (12, 3) if bench.options.tiny else (512, 16)
    return bench.step("flyp", "off", number).peak(many), bench.step("flyp", "off").peak(many // number)


ROWS: dict[str, tuple[str, str, Callable[[Bench], Ratio]]] = {
    "full": ("full, compiled, over a bare eager loop: seconds of a step", "<= 0.55", full),
    "lora": ("LoRA, compiled, over its own eager step", "<= 0.65", own("lora")),
    "dra": ("DRA, compiled, over its own eager step", "<= 0.65", own("dra")),
    "orthcr": ("OrthCR, compiled, over its own eager step", "<= 0.65", own("orthcr")),
    "fit": ("fit from JPEG files over the step alone: images/s", ">= 0.9", fit_whole),
    "features": ("image_features from JPEG files over encoding alone: images/s", ">= 0.8", features),
    "coop": ("CoOp with cached features over CoOp without: seconds of a step", "<= 0.33", coop),
    "classes": ("1,000 classes over 100, text tower trained: peak memory", "<= 1.3", classes),
    "parts": ("FLYP, 512 images in 16 parts over 32 images: peak memory", "<= 1.2", parts),
}
"""Row -> what is measured, its target, and how: the first figure over the second."""


if __name__ == "__main__":
    main()
