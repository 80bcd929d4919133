"""A small world for the trainer's tests: images of one color per class, a tiny CLIP, a method that trains all of it.

Also a way to run a training in a process of its own, which starts in no time: the libraries are loaded once and forked.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import multiprocessing
import os
import random
import resource
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from steadyclip.adapters import Weights
from steadyclip.anchors import Pair, write_anchors
from steadyclip.core.errors import SteadyClipError
from steadyclip.core.seeds import step_seed
from steadyclip.data import ImageSet, ImageTask
from steadyclip.methods import get_method
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.models.testing import tiny
from steadyclip.objectives import (
    Batch,
    CrossedEntropy,
    CrossEntropy,
    DrawnPrompts,
    Features,
    InfoNCE,
    Objective,
    Text,
    as_objective,
)
from steadyclip.training import Stopped, TrainConfig, fit
from steadyclip.training.checkpoint import to_bytes
from steadyclip.training.step import Step

COLORS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 220), "white": (240, 240, 240)}
RECIPE = Recipe(learning_rate=1e-3, weight_decay=0.1, steps=7, batch_size=6, warmup_steps=2, clip_norm=1.0)


@dataclass(frozen=True)
class MemoryStore:
    """Encoded images by key."""

    files: dict[str, bytes]

    def read(self, key: str) -> bytes:
        return self.files[key]


def image_set(per_class: int, name: str = "colors", classes: Sequence[str] = tuple(COLORS)) -> ImageSet:
    keys, labels, files = [], [], {}
    for label, word in enumerate(classes):
        for i in range(per_class):
            rng = random.Random(f"{name}/{word}/{i}")
            color = tuple(max(0, min(255, value + rng.randint(-25, 25))) for value in COLORS[word])
            buffer = io.BytesIO()
            Image.new("RGB", (24, 20), color).save(buffer, "PNG")
            keys.append(f"{word}/{i}.png")
            labels.append(label)
            files[keys[-1]] = buffer.getvalue()
    blank = (None,) * len(keys)
    templates = ("a photo of a {}.", "a {}.")
    return ImageSet(name, tuple(classes), templates, tuple(keys), tuple(labels), blank, blank, MemoryStore(files))


def make_task(per_class: int = 4, val: int = 0, name: str = "colors") -> ImageTask:
    """16 training images of 4 classes: with batches of 6 an epoch has two steps and leaves four images over."""
    return ImageTask(name, image_set(per_class, name), image_set(val, "val"), shots=per_class, seed=1, subset="all")


class Everything(Method):
    """All weights, cross-entropy."""

    name = "everything"
    summary = "all weights"
    source = "for tests"

    adapters = (Weights(),)
    recipe = RECIPE
    strength: float = 1.0

    def objective(self) -> Objective:
        return self.strength * CrossEntropy()


class Harm(CrossEntropy):
    """Cross-entropy until ``harm`` is done at step ``at``: "kill", "nan", "nan gradient", "stop" or "terminate"."""

    harm: str = "kill"
    at: int = 3

    def __call__(self, f: Features) -> Tensor:
        loss = super().__call__(f)
        if is_step(f, self.at):
            if self.harm == "nan":
                return loss * float("nan")
            if self.harm == "nan gradient":  # the square root's slope at 0 is infinite, times 0
                return loss + (loss * 0).sqrt()
            signals = {"kill": 9, "stop": 2, "terminate": 15}
            os.kill(os.getpid(), signals[self.harm])
        return loss


def is_step(f: Features, step: int) -> bool:
    """Whether this is ``step`` of a training of seed 1 or 2: terms see its seed alone."""
    return f.seed in {step_seed(seed, step) for seed in (1, 2)}


class Harmful(Everything):
    """``Everything`` until ``harm`` is done at step ``at``, see ``Harm``."""

    harm: str = "kill"
    at: int = 3

    def knobs(self) -> dict[str, Any]:
        own = Everything(adapters=self.adapters, average=self.average, strength=self.strength)
        return own.knobs()  # the same run as without harm

    def objective(self) -> Objective:
        return self.strength * Harm(harm=self.harm, at=self.at)


def clip() -> DualEncoder:
    return tiny("clip")


PRELOADED = [
    "accelerate",
    "steadyclip.models.testing",
    "steadyclip.training.loop",
    "steadyclip.training.trainer",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
]


def in_process(function: Callable[..., Any], *args: Any, environment: dict[str, str] | None = None) -> Any:
    """Start ``function(*args)`` in a fresh process; returns the process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_call, args=(function, args, environment or {}))
    process.start()
    return process


def _call(function: Callable[..., Any], args: tuple[Any, ...], environment: dict[str, str]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*args)


# ---- what tests run in processes of their own


def config(out: Path, **more) -> TrainConfig:
    return TrainConfig(**{"out": out, "progress": False, "checkpoint_steps": 2, "log_every": 2, **more})


def everything_or_lora(name: str):
    return Everything() if name == "everything" else get_method(name)


def train(out: Path, method, **more):
    model = clip()
    fit(model, method, make_task(), recipe=RECIPE, config=config(out, **more))
    return model.trained_state()


def train_every_third(out: Path, at: int) -> None:
    train(out, Harmful(harm="kill", at=at), checkpoint_steps=3)


class Killer(Harmful):
    """Kills the process that trains by low-rank updates with dropout."""

    adapters = get_method("lora").adapters


def train_with_little_room(out: Path, room: int) -> None:
    """Files cannot grow beyond ``room`` bytes from step 3 on; the error's line goes to out.txt."""

    class Starving(CrossEntropy):
        def __call__(self, f):
            if is_step(f, 3):
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
            return super().__call__(f)

    class Starved(Everything):
        def objective(self):
            return Starving()

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        train(out, Starved())
    except SteadyClipError as error:
        out.with_name("out.txt").write_text(str(error))
        os._exit(3)


class Projected(Everything):
    """Gradients of two groups made into one, as ProGrad does: the first, with half its part along the second."""

    name = "projected"

    def objective(self) -> Objective:
        groups = as_objective(CrossEntropy()), as_objective(CrossedEntropy())
        return Objective(groups=groups, combine=project)


class ProjectedPairs(Everything):
    """The same of a term that compares the images of a batch."""

    name = "projected-pairs"

    def objective(self) -> Objective:
        groups = as_objective(InfoNCE(Text(DrawnPrompts()))), as_objective(CrossedEntropy())
        return Objective(groups=groups, combine=project)


def project(gradients: Sequence[Tensor]) -> Tensor:
    g, h = gradients
    return g - 0.5 * (g * h).sum() / (h * h).sum().clamp(min=1e-12) * h


def for_two(name: str) -> Method:
    # Dropout is drawn by each process for its own part, so it is off where results are compared.
    made = {method.name: method for method in (Everything(), Projected(), ProjectedPairs())}
    return made.get(name) or get_method(name, {"dropout": 0.0} if name in ("lora", "compose") else {})


def train_shared(out: Path, name: str, accumulate: int = 1, unreadable: str = "") -> None:
    config = TrainConfig(out=out, progress=False, accumulate=accumulate, device="cpu", checkpoint_steps=4, log_every=2)
    method, task, recipe = for_two(name), make_task(val=1), RECIPE
    if name == "arf":  # the test has written the anchor file
        method, task = get_method("arf", {"anchors": out.parent / "anchors.parquet"}), captioned_task()
    if unreadable:
        task = without(make_task(8), unreadable)
    if name in ("coop", "tip-adapter-f"):
        recipe = dataclasses.replace(RECIPE, views=2, optimizer="sgd", learning_rate=0.1)
    fit(clip(), method, task, recipe=method.recipe and recipe, config=config)


def textured(task: ImageTask) -> ImageTask:
    """The task with images that look different in each crop."""
    found = {}
    for key in task.train.keys:
        buffer = io.BytesIO()
        Image.frombytes("RGB", (40, 40), random.Random(key).randbytes(40 * 40 * 3)).save(buffer, "PNG")
        found[key] = buffer.getvalue()
    return dataclasses.replace(task, train=dataclasses.replace(task.train, store=MemoryStore(found)))


def without(task: ImageTask, *keys: str) -> ImageTask:
    """The task with some training images that cannot be decoded."""
    store = MemoryStore({**task.train.store.files, **dict.fromkeys(keys, b"no image")})
    return dataclasses.replace(task, train=dataclasses.replace(task.train, store=store))


def gradients_of_five(out: Path, *names: str) -> None:
    """Terms and gradients of one step of five images, 3 and 2 of them in two processes."""
    fresh = clip()  # later on, transformers would write it in one of two processes only
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.distributed.init_process_group("gloo")
    for name in names:
        (out / name).mkdir(exist_ok=True)
        _gradients_of_five(out / name, name, copy.deepcopy(fresh))


def _gradients_of_five(out: Path, name: str, model: DualEncoder) -> None:
    method, task = for_two(name), make_task()
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    sizes = [3, 2] if processes > 1 else [5]
    torch.manual_seed(0)
    method.attach(model, task.classes)
    images_BCHW = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)).split(sizes)[rank]
    places = torch.arange(5).split(sizes)[rank].tolist()
    batch = Batch(torch.tensor([0, 1, 2, 0, 3])[places], tuple(map(str, places)), images_BCHW)
    step = Step(method, model, task.classes, task.templates)
    terms = step.gradients(batch, seed=1, whole=5)
    gradients = {name: p.grad for name, p in step.trained.items() if p.grad is not None}
    found = {**gradients, **{f"term {k}": v for k, v in terms.items()}}
    (out / f"{rank}-of-{processes}").write_bytes(to_bytes(found))


def stop_one_of_two(out) -> None:
    """Only the second process is asked to stop, at step 2; both notice at the next log step."""
    at = 2 if os.environ["RANK"] == "1" else 99
    config = TrainConfig(out=out, progress=False, device="cpu", log_every=4)
    try:
        fit(clip(), Harmful(harm="terminate", at=at), make_task(), config=config)
    except Stopped:
        os._exit(5)


# ---- anchors


def captioned_task() -> ImageTask:
    task = make_task(val=1)
    captions = tuple(f"number {i} is a {key.split('/')[0]} square" for i, key in enumerate(task.train.keys))
    return dataclasses.replace(task, train=dataclasses.replace(task.train, captions=captions))


def write_pairs(path: Path, images: ImageSet, texts: Sequence[str] = ("a red wall", "the sky", "grass")) -> Path:
    """An anchor file with a pair for each image."""
    pool = [images.store.read(key) for key in images.keys[: len(texts)]]
    pairs = (
        Pair(key, 1, 0.5, f"pool-{i % len(texts)}", texts[i % len(texts)], pool[i % len(texts)])
        for i, key in enumerate(images.keys)
    )
    write_anchors(path, pairs, {})
    return path


# ---- comparing


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float = 5e-5) -> bool:
    """Up to rounding. Not the keys' biases: their gradient is 0 but for rounding, which AdamW blows up."""
    names = [name for name in a if "k_proj.bias" not in name]
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=tolerance, rtol=0) for name in names)


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
