"""A data source with its splits, and the part of it that training may see."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from steadyclip.core.errors import DataError, UsageError, nearest
from steadyclip.core.words import counted
from steadyclip.data.decode import highest_level
from steadyclip.data.images import ImageSet, Skipped
from steadyclip.data.prompts import doubtful_names
from steadyclip.data.sampling import Subset, class_range, few_shot


@dataclass(frozen=True)
class ImageTask:
    """What training receives: training and validation images, names and templates. It holds no test data.

    ``others`` are the classes of the data source that ``subset`` leaves out.
    """

    name: str
    train: ImageSet
    val: ImageSet
    shots: int | None
    seed: int
    subset: Subset
    skipped: Skipped = ()
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The C class names; a label is a position among them."""
        return self.train.classes

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts with ``{}`` in the place of the class name."""
        return self.train.templates

    @property
    def hash(self) -> str:
        """16 hex digits over the selected keys, labels and classes of train and val; opens no image."""
        return hashlib.sha256(f"{self.train.hash}/{self.val.hash}".encode()).hexdigest()[:16]

    @property
    def content(self) -> str:
        """16 hex digits over what the images of train and val are, with labels, classes and captions."""
        both = "/".join(part.content_with(part.captions) for part in (self.train, self.val))
        return hashlib.sha256(both.encode()).hexdigest()[:16]

    @property
    def digests(self) -> frozenset[str]:
        """What the images of train and val are, by their bytes: ``test.unlike(task.digests)`` has none of them."""
        return frozenset(filter(None, (*self.train.digests, *self.val.digests)))

    def split_json(self) -> dict[str, Any]:
        """The selection as plain JSON: ``[relative path, label, digest]`` of each image under train and val."""

        def rows(images: ImageSet) -> list[list[Any]]:
            return [list(row) for row in zip(images.keys, images.labels, images.digests, strict=True)]

        about = {name: getattr(self, name) for name in ("subset", "shots", "seed", "hash")}
        images = {"classes": list(self.classes), "train": rows(self.train), "val": rows(self.val)}
        return {"schema": 2, "kind": "split", "data": self.name, **about, **images}

    def summary(self) -> list[str]:
        """Lines for people: sizes, what was taken, what was left out."""
        shots = "all images" if self.shots is None else f"{self.shots} shots, seed {self.seed}"
        lines = [f"{self.name}: {len(self.classes)} classes ({self.subset}), {shots}"]
        lines.append(f"{len(self.train)} training and {len(self.val)} validation images")
        return [*lines, *self.notes, *(f"skipped {key}: {reason}" for key, reason in self.skipped)]


@dataclass(frozen=True)
class Report:
    """What ``ImageData.check`` found, having read every image.

    Attributes:
        counts: split -> class -> images.
        unreadable: (key, reason) of every image that cannot be decoded.
        empty: (split, class) pairs without an image.
        duplicates: groups of (split, key) with the very same bytes.
        notes: remarks on class names and gray levels.
    """

    counts: dict[str, dict[str, int]]
    unreadable: Skipped
    empty: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[tuple[str, str], ...], ...]
    notes: tuple[str, ...]

    @property
    def leaks(self) -> tuple[tuple[tuple[str, str], ...], ...]:
        """The duplicates that stand both in test and in another split."""
        return tuple(group for group in self.duplicates if len({split == "test" for split, _ in group}) == 2)


@dataclass(frozen=True)
class ImageData:
    """A data source with its train, val and test images. Test is reached through ``test_set`` only."""

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    domains: tuple[str, ...]
    splits: dict[str, ImageSet] = dataclasses.field(repr=False)
    notes: tuple[str, ...] = ()

    def task(self, shots: int | None = None, seed: int = 1, subset: Subset = "all", verify: bool = True) -> ImageTask:
        """What to train on: every training image, or ``shots`` per class drawn as CoOp and Dassl draw them.

        Args:
            shots: training images per class (validation: ``min(shots, 4)``); None takes all. A class with fewer gives
                all it has, which the task's notes say.
            seed: of the sample; without ``shots`` it changes nothing here.
            subset: "base" is the first half of the classes, "new" the rest; labels then start at 0.
            verify: decode the selected images now and leave the unreadable out.

        Raises:
            DataError: no training images, or too many of them unreadable.
            UsageError: ``shots`` below 1, or an unknown subset.
        """
        chosen = self._numbers(subset)
        if shots is not None and shots < 1:
            raise UsageError(f"shots must be 1 or more, not {shots}.")
        train, val, notes = self.splits["train"], self.splits["val"], []
        if not len(train):
            raise DataError(f"{self.name} has no training images (only {self._present()}): nothing to train on.")
        counts = Counter(dict.fromkeys(chosen, 0))
        counts.update(label for label in train.labels if label in counts)
        if empty := [self.classes[label] for label, count in counts.items() if not count]:
            raise DataError(f"{self.name}: class {empty[0]!r} has no training images. Add some, or remove it.")
        if shots is not None:
            if fewer := [count for count in counts.values() if count < shots]:
                notes.append(
                    f"{len(fewer)} of {len(chosen)} classes have fewer than {shots} training images "
                    f"(the smallest {min(fewer)}): all of them are taken"
                )
            chosen_train, chosen_val = few_shot(train.labels, val.labels, shots, seed)
            train, val = train.subset(chosen_train), val.subset(chosen_val)
        train, val = train.of_classes(chosen), val.of_classes(chosen)
        skipped: Skipped = ()
        if verify:
            skipped = train.unreadable() + val.unreadable()
            train.accept(skipped)
            val.accept(skipped, every_class=False)
            train, val = train.without(skipped), val.without(skipped)
        others = tuple(name for i, name in enumerate(self.classes) if i not in chosen)
        return ImageTask(self.name, train, val, shots, seed, subset, skipped, (*self.notes, *notes), others)

    def test_set(
        self, subset: Subset = "all", domain: str | None = None, classes: Sequence[int] | None = None
    ) -> ImageSet:
        """The images to score: the test split of ``subset``, in one domain.

        Args:
            subset: as in ``task``.
            domain: one of ``domains``; by default those that occur in training.
            classes: numbers of the classes to score among instead of a subset, in this order.

        Raises:
            DataError: no test split, an unknown domain, or no image.
        """
        chosen = self._numbers(subset) if classes is None else classes
        test = self.splits["test"]
        if not len(test):
            raise DataError(f"{self.name} has no test images (only {self._present()}): add a test split to score on.")
        if domain is not None:
            self._need_domains([domain])
        wanted = {domain} if domain is not None else set(self.splits["train"].domains) or set(test.domains)
        test = test.by_domain(wanted)[0].of_classes(chosen)
        if not len(test):
            among = f"subset {subset!r}" if classes is None else f"{len(classes)} classes"
            raise DataError(f"{self.name} has no test images for {among}, domain {domain or 'of training'!r}.")
        return test

    def with_sources(self, sources: Collection[str]) -> ImageData:
        """The same images with only the domains ``sources`` to train on.

        Of the other domains nothing is trained on, so all their images are test images.

        Raises:
            DataError: an unknown domain, or no training images in any of them.
        """
        self._need_domains(sources)
        parts = {split: images.by_domain(frozenset(sources)) for split, images in self.splits.items()}
        test = parts["test"][0].joined(*(others for _, others in parts.values()))
        splits = {"train": parts["train"][0], "val": parts["val"][0], "test": test}
        if not len(splits["train"]):
            there = ", ".join(sorted({str(domain) for domain in self.splits["train"].domains}))
            raise DataError(f"{self.name} has no training images in {', '.join(sources)}, only in {there}.")
        return dataclasses.replace(self, splits=splits)

    def check(self) -> Report:
        """Read every image of every split and report on them. Changes nothing."""
        counts: dict[str, Counter[str]] = {}
        places: dict[str, list[tuple[str, str]]] = {}
        unreadable: Skipped = ()
        levels: list[int] = []
        for split, images in self.splits.items():
            if len(images):
                counts[split] = Counter(dict.fromkeys(self.classes, 0))
                counts[split].update(self.classes[label] for label in images.labels)
            broken = images.unreadable()
            unreadable += broken
            for key, digest in zip(images.keys, images.digests, strict=True):
                if digest:
                    places.setdefault(digest, []).append((split, key))
                    level = highest_level(images.store.read(key))
                    levels += [] if level is None else [level]
        empty = tuple((split, name) for split, per in counts.items() for name, count in per.items() if not count)
        duplicates = tuple(tuple(group) for group in places.values() if len(group) > 1)
        notes = tuple(doubtful_names(self.classes))
        # 16-bit images are scaled by their full range; cameras and microscopes often use the lowest bits of it only
        bits = next((bits for bits in (8, 10, 12, 14) if levels and max(levels) < 2**bits), None)
        if bits:
            notes += (
                f"{counted(len(levels), 'image', 'has', 'have')} 16 bits, and no value of them is above {2**bits - 1}: "
                f"if {bits} bits are used, a model sees them nearly black; scale them to 65535",
            )
        return Report({split: dict(per) for split, per in counts.items()}, unreadable, empty, duplicates, notes)

    def summary(self) -> list[str]:
        """Lines for people: sizes, domains and remarks."""
        sizes = ", ".join(f"{len(images)} {split}" for split, images in self.splits.items())
        domains = f", domains {', '.join(self.domains)}" if self.domains else ""
        return [f"{self.name}: {len(self.classes)} classes, {sizes} images{domains}", *self.notes]

    def restore(self, split: dict[str, Any]) -> ImageTask:
        """The task of a saved ``split_json``, image for image.

        Raises:
            DataError: the split is of other classes, or of images that this data source does not have.
        """
        chosen = self._numbers(split["subset"])
        if split["classes"] != [self.classes[number] for number in chosen]:
            raise DataError(
                f"the saved split of {split['data']!r} is of other classes than {self.name!r}: load its own data."
            )
        sets = []
        for part in ("train", "val"):
            images = self.splits[part].of_classes(chosen)
            position = {key: i for i, key in enumerate(images.keys)}
            there = images.subset(position[key] for key, *_ in split[part] if key in position)
            now = {key: [key, *of] for key, *of in zip(there.keys, there.labels, there.digests, strict=True)}
            if missing := [row[0] for row in split[part] if now.get(row[0]) != row]:
                raise DataError(
                    f"{self.name}: {counted(len(missing), 'image', 'is', 'are')} missing of the saved {part} split, or "
                    f"have changed, for instance {missing[0]}. Load the data the split was made of."
                )
            sets.append(there)
        return ImageTask(self.name, *sets, shots=split["shots"], seed=split["seed"], subset=split["subset"])

    def _need_domains(self, domains: Collection[str]) -> None:
        known = f"it has {', '.join(self.domains)}" if self.domains else "it has no domains"
        for domain in domains:
            if domain not in self.domains:
                raise DataError(f"{self.name}: unknown domain {domain!r}; {known}.{nearest(domain, self.domains)}")

    def _numbers(self, subset: str) -> range:
        known = get_args(Subset)
        if subset not in known:
            raise UsageError(f"unknown subset {subset!r}: one of {', '.join(known)}.{nearest(subset, known)}")
        return range(*class_range(len(self.classes), cast(Subset, subset)))

    def _present(self) -> str:
        return " and ".join(split for split, images in self.splits.items() if len(images))


class _Split(msgspec.Struct):
    data: str
    subset: str
    shots: int | None
    seed: int
    classes: list[str]
    train: list[tuple[str, int, str]]
    val: list[tuple[str, int, str]]
    shown: list[str] = []


_SPLIT = {*_Split.__struct_fields__} - {"shown"}


def read_split(path: Path) -> dict[str, Any]:
    """A split file as ``ImageData.restore`` takes it.

    Raises:
        DataError: not there, or not a split file.
    """
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a split file: {error}") from None
    if not isinstance(split, dict) or split.get("kind") != "split" or not split.keys() >= _SPLIT:
        raise DataError(f"{path} is not a split file of steadyclip (kind 'split' with {', '.join(sorted(_SPLIT))}).")
    if split.get("schema") != 2:
        raise DataError(f"{path} is of an earlier version, which kept no digests of the images: train again.")
    try:
        msgspec.convert(split, _Split)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:
        raise DataError(f"{path} is damaged ({error}): train again.") from None
    return split


def seen_by(split: dict[str, Any]) -> frozenset[str]:
    """The digests of what a training has seen: its training and validation images, and images of its streams."""
    own = (digest for part in ("train", "val") for _, _, digest in split[part] if digest)
    return frozenset((*own, *split.get("shown", ())))
