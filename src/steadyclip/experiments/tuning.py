"""The whole job for one's own images: how long to train, how long it will take, and a second training that shows what
becomes of names that were not trained on."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import DataError
from steadyclip.core.precision import best_device
from steadyclip.core.progress import roughly, spell
from steadyclip.data.copies import copies
from steadyclip.data.task import read_split, seen_by
from steadyclip.evaluation.records import Record, Run
from steadyclip.experiments.before_after import BeforeAfter, to_score
from steadyclip.experiments.rows import Row
from steadyclip.training.config import TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageData, ImageTask
    from steadyclip.methods.recipe import Recipe

HALF = "half"
"""Folder in the run's with the second training, on half of the classes."""
LEAST_CLASSES = 4
"""To train on half of them: two on either side."""
_PASSES, _MOST, _LEAST = 20, 1000, 100
_TRIED_STEPS, _TRIED_IMAGES = 2, 16
_LISTED = 5
"""Broken images that are named before a training."""


def sensible(recipe: Recipe, images: int, classes: int) -> Recipe:
    """The recipe with a length that fits few images: 100 steps at least, and at most 20 passes over the images and
    1,000 steps, unless a single pass is longer.

    Published recipes were chosen for other numbers of images: some come to 8,000 steps for 16 images of each class, and
    some to a dozen, which change nothing.
    """
    steps, each = recipe.total_steps(images, classes), max(1, images / min(recipe.batch_size, images))
    most = max(_LEAST, math.ceil(each), min(_MOST, math.ceil(_PASSES * each)))
    fitting = min(max(steps, _LEAST), most)
    if steps == fitting:
        return recipe
    length: dict[str, Any] = {"steps": fitting, "steps_per_shot": None, "epochs": None}
    return dataclasses.replace(recipe, **length, warmup_steps=min(recipe.warmup_steps, fitting // 10))


@dataclass(frozen=True)
class Tuning:
    """One's own images, a method, and where the result belongs.

    Attributes:
        data: the images.
        rest: other data to score what was not trained on; without any, half of the classes is left out of a second
            training, if there are enough and ``half`` is set.
        row: the method and how it is trained; its recipe decides the length (``sensible`` cuts it).
        model: as for ``load``.
        config: how to train; ``out`` is the run folder.
        shots: training images per class; None takes all.
        half: train a second time on half of the classes.
        templates: prompts that the user asked for.
        copies: digests of test images that show the same as a training image; they are left out of the test.
        say: takes lines for people.
    """

    data: ImageData
    row: Row
    model: str
    config: TrainConfig
    rest: Sequence[ImageData] = ()
    shots: int | None = None
    half: bool = True
    templates: tuple[str, ...] = ()
    copies: frozenset[str] = frozenset()
    say: Callable[[str], None] = print

    @property
    def out(self) -> Path:
        """The run folder."""
        assert self.config.out is not None
        return self.config.out

    @property
    def by_half(self) -> bool:
        """Whether there is a second training."""
        asked = self.half and not self.rest and not self.row.method.head.own_classes
        return asked and len(self.data.classes) >= LEAST_CLASSES

    def tasks(self) -> list[ImageTask]:
        """What is trained on: all classes, and half of them where there is a second training."""
        subsets = ("all", "base") if self.by_half else ("all",)
        return [self.data.task(self.shots, self.config.seed, subset) for subset in subsets]

    def plan(self, tasks: Sequence[ImageTask]) -> Iterator[str]:
        """Lines for people: what will be done, and how long it will take here."""
        task, recipe = tasks[0], self.row.recipe
        test = len(self.data.splits["test"])
        yield "plan:"
        yield (
            f"  images   {len(task.train)} to train on, {len(task.val)} to validate, {test} to test, of "
            f"{len(task.classes)} classes"
        )
        yield f"  model    {self.model}"
        yield f"  method   {self.row.label}: {self.row.method.summary}"
        if recipe:
            size = min(recipe.batch_size, len(task.train))
            steps = recipe.total_steps(len(task.train), len(task.classes))
            yield f"  length   {steps:,} steps of {size} images, each image {steps * size / len(task.train):.3g} times"
        yield f"  rest     {self._rest(tasks)}"
        if left := [task for task in tasks if not self._trained(self._folder(task, tasks))]:
            about = f"about {roughly(self._seconds(tasks, left))} on {best_device(self.config.device)}"
            yield f"  time     {about}, measured in a few steps"
        else:
            yield "  time     that of scoring: it was trained before"
        yield f"  result   {self.out}"

    def _rest(self, tasks: Sequence[ImageTask]) -> str:
        if self.rest:
            return f"what it loses is measured on {', '.join(data.name for data in self.rest)}"
        if self.row.method.head.own_classes:
            return "none: the method knows no names but those that it is trained on"
        if len(tasks) > 1:
            return (
                f"what it loses is measured by a second training on {len(tasks[1].classes)} of your classes, scored on "
                f"the other {len(tasks[1].others)}"
            )
        why = "" if self.half is False else f", as {len(self.data.classes)} classes cannot be halved"
        return f"what it loses is not measured{why}: --rest names other data to score"

    def _folder(self, task: ImageTask, tasks: Sequence[ImageTask]) -> Path:
        return self.out if task is tasks[0] else self.out / HALF

    @staticmethod
    def _trained(folder: Path) -> bool:
        return (folder / "run.json").is_file() and Run.read(folder / "run.json").finished

    def _seconds(self, tasks: Sequence[ImageTask], left: Sequence[ImageTask]) -> float:
        """An estimate, from a few images and steps that are then forgotten; ``left`` is still to be trained."""
        from steadyclip.models import load
        from steadyclip.models.features import image_features
        from steadyclip.training import fit

        model, task = load(self.model, device=best_device(self.config.device)), tasks[0]
        few = task.train.subset(range(min(_TRIED_IMAGES, len(task.train))))
        few = dataclasses.replace(few, max_unreadable=1.0)
        image_features(model, few, precision=self.config.precision)  # the first time is slower
        start = time.perf_counter()
        image_features(model, few, precision=self.config.precision)
        each = (time.perf_counter() - start) / len(few)
        scored = sum(len(data.splits["test"]) for data in (self.data, *self.rest)) * len(tasks)
        seconds = 2 * each * scored
        if self.row.recipe is None:
            return seconds + each * sum(len(task.train) + len(task.val) for task in left)
        short = dataclasses.replace(
            self.row.recipe, steps=_TRIED_STEPS, steps_per_shot=None, epochs=None, warmup_steps=0
        )
        config = dataclasses.replace(self.config, out=None, progress=False)
        result = fit(model, self.row.method, task, recipe=short, config=config)
        steps = sum(self._recipe(task, tasks[0]).total_steps(len(task.train), len(task.classes)) for task in left)
        return seconds + result.seconds / _TRIED_STEPS * steps

    def _recipe(self, task: ImageTask, whole: ImageTask) -> Recipe:
        """That of the row; a part of the images is trained on as often as all of them."""
        recipe = self.row.recipe
        assert recipe is not None
        if task is whole or recipe.steps is None:
            return recipe
        return dataclasses.replace(recipe, steps=math.ceil(recipe.steps * len(task.train) / len(whole.train)))

    def run(self, tasks: Sequence[ImageTask]) -> list[Record]:
        """Train and score; the same call again resumes.

        Raises:
            SteadyClipError: as ``fit`` and ``evaluate``.
        """
        from steadyclip.models import load
        from steadyclip.training import fit

        records: list[Record] = []
        for task in tasks:
            whole = task is tasks[0]
            out = self._folder(task, tasks)
            model = load(self.model)
            recipe = self._recipe(task, tasks[0]) if self.row.recipe else None
            config = dataclasses.replace(self.config, out=out)
            what = "" if whole else f" on {len(task.classes)} of the classes"
            result = fit(model, self.row.method, task, recipe=recipe, config=config)
            self.say(f"trained{what} in {spell(result.seconds)}")
            seen = seen_by(read_split(out / "split.json")) | self.copies
            say = self.say if whole else lambda line: None
            options = {name: getattr(config, name) for name in ("workers", "precision", "progress")}
            templates = self.templates
            both = BeforeAfter(
                model, self.row.method, result.run, out, seen, templates=templates, options=options, say=say
            )
            records += both.score(to_score(self.data, result.run, self.rest if whole else ()))
        return records


def refuse_hopeless(data: ImageData) -> Iterator[str]:
    """Reads every image, and looks for what no training can mend.

    Yields:
        Lines for people, before anything is refused: what is broken, doubtful or there twice.

    Raises:
        DataError: all images are the same, or there are no test images, or too many of a split are broken.
    """
    report = data.check()
    every, broken = sum(map(len, data.splits.values())), report.unreadable
    yield f"every image was read: {len(broken)} of {every} cannot be used"
    yield from (f"unreadable: {key}: {reason}" for key, reason in broken[:_LISTED])
    if len(broken) > _LISTED:
        yield f"and {len(broken) - _LISTED} more: steadyclip data check lists them"
    yield from report.notes
    twice = sum(len(group) - 1 for group in report.duplicates)
    if every - len(broken) - twice < 2:
        raise DataError(f"all images of {data.name} are the same one: there is nothing to tell apart.")
    if twice:
        yield f"exact copies of other images: {twice}, such as {_pair(report.duplicates[0])}"
    labels = {
        (split, key): label for split, of in data.splits.items() for key, label in zip(of.keys, of.labels, strict=True)
    }
    if torn := [group for group in report.duplicates if len({labels[place] for place in group}) > 1]:
        yield f"images in several classes: {len(torn)}, such as {_pair(torn[0])}: one of the labels is wrong"
    if not len(data.splits["test"]):
        raise DataError(f"{data.name} has no test images: nothing could be said about a training. Add some.")
    for split, images in data.splits.items():
        try:
            images.accept(broken)
        except DataError as error:
            raise DataError(f"{split} images of {error}") from None


def find_copies(data: ImageData) -> tuple[frozenset[str], list[str]]:
    """The digests of test images that look exactly like a training or validation image, and a line about them."""
    test, others = data.splits["test"], data.splits["train"].joined(data.splits["val"])
    found = copies(test, others)
    if not found:
        return frozenset(), []
    some, other = next(iter(found.items()))
    images = test.subset(i for i, key in enumerate(test.keys) if key in found)
    line = (
        f"{len(found)} of {len(test)} test images show the same as an image that is trained or validated on, such as "
        f"{some} and {other}: they are left out of the test"
    )
    return frozenset(images.digests), [line]


def _pair(group: Sequence[tuple[str, str]]) -> str:
    return " = ".join(key for _, key in group[:2])
