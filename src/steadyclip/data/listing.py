"""What every layout yields, one entry an image, and how a data source is made of it."""

from __future__ import annotations

import contextlib
import functools
import os
import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from steadyclip.core.errors import DataError
from steadyclip.core.files import file_in, text_of_path
from steadyclip.data.images import ImageSet, Store
from steadyclip.data.sampling import split_three, split_val
from steadyclip.data.task import ImageData

SPLITS = ("train", "val", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip
"""Spellings of the splits, in folder names and in a split column."""

SPLIT_SEED = 1
"""Seed of the splits that are made here; not the few-shot seed, so that every run is scored on the same images."""


class Entry(NamedTuple):
    """One image as its layout names it. ``where`` is a place to show in errors ("labels.csv row 7")."""

    key: str
    label: str
    split: str | None
    where: str
    domain: str | None = None
    caption: str | None = None
    group: str | None = None


@dataclass
class Listing:
    """The images of a data source before names and splits are settled.

    Attributes:
        classes: raw labels in the order of the class numbers; None sorts the names.
        notes: remarks for people.
        names: raw label -> name for prompts, where it is not the label itself; two labels may then share a name.
        val_from_train: without a validation split, take one from train.
        border: see ``ImageSet.border``.
    """

    name: str
    entries: list[Entry]
    store: Store
    templates: tuple[str, ...]
    classes: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    names: Mapping[str, str] | None = None
    val_from_train: bool = True
    border: int = 0


def class_name(raw: str) -> str:
    """The name that goes into prompts: underscores and runs of blanks become one space."""
    return " ".join(unicodedata.normalize("NFC", raw).replace("_", " ").split())


def path_key(path: str, root: Path) -> str:
    """A path in a table as a key: POSIX, relative to the table's folder ``root`` wherever that is possible."""
    if "\0" in path:
        raise DataError(f"{path!r} cannot be a path: it holds a character of code 0. Write the table again as UTF-8.")
    if os.path.isabs(path):
        with contextlib.suppress(ValueError):  # on another drive
            path = os.path.relpath(path, os.path.abspath(root))
    return posixpath.normpath(path.replace("\\", "/"))


def assemble(listing: Listing, max_unreadable: float) -> ImageData:
    """Settle names, class numbers and splits.

    Raises:
        DataError: no images, one class only, two labels with the same name, an image named twice, a split for some
            images only.
    """
    name, entries = text_of_path(listing.name), [_spelled(entry) for entry in listing.entries]
    if not entries:
        raise DataError(f"{name} names no images: nothing to load.")
    where: dict[str, str] = {}
    first: dict[str, Entry] = {}
    for entry in entries:
        if entry.key in where:
            raise DataError(f"{entry.where}: {entry.key} was already named at {where[entry.key]}. Remove one of them.")
        where[entry.key] = entry.where
        first.setdefault(entry.label, entry)
    raw = listing.classes or tuple(sorted(first, key=class_name))
    if unlisted := first.keys() - set(raw):
        raise DataError(f"{first[min(unlisted)].where}: class {min(unlisted)!r} is not in the list of classes.")
    if listing.names is None:
        _refuse_same_names(first.values())
    if len(first) < 2:
        raise DataError(f"{name} has only one class ({class_name(entries[0].label)!r}): two are needed.")
    entries, notes = _with_splits(listing, entries)
    number = {label: index for index, label in enumerate(raw)}
    classes = tuple(class_name((listing.names or {}).get(label, label)) for label in raw)
    splits = {}
    for split in SPLITS:
        chosen = [entry for entry in entries if entry.split == split]
        splits[split] = ImageSet(
            name,
            classes,
            listing.templates,
            keys=tuple(entry.key for entry in chosen),
            labels=tuple(number[entry.label] for entry in chosen),
            domains=tuple(entry.domain for entry in chosen),
            captions=tuple(entry.caption for entry in chosen),
            store=listing.store,
            max_unreadable=max_unreadable,
            border=listing.border,
            groups=tuple(entry.group for entry in chosen),
        )
    domains = tuple(dict.fromkeys(entry.domain for entry in entries if entry.domain is not None))
    trained, tested = ({e.group for e in entries if e.group and (e.split == "test") is test} for test in (False, True))
    if both := trained & tested:
        notes.append(f"{len(both)} groups, for instance {min(both)!r}, have images to train on and to test on")
    notes = map(text_of_path, (*listing.notes, *notes))
    return ImageData(name, classes, listing.templates, domains, splits, tuple(notes))


def _spelled(entry: Entry) -> Entry:
    """The entry with a key that can be written to files. Raises DataError where a class or domain cannot be."""
    for name in filter(None, (entry.label, entry.domain)):
        if text_of_path(name) != name:
            raise DataError(f"{entry.where}: the name {text_of_path(name)} is no UTF-8: rename the folder.")
    key = text_of_path(entry.key)
    return entry if key == entry.key else entry._replace(key=key)


def missing_files(root: Path, entries: Iterable[Entry]) -> list[Entry]:
    """The entries whose file is not there. Folders are listed, nothing is opened."""

    @functools.cache
    def names(folder: PurePosixPath) -> set[str]:
        with contextlib.suppress(OSError):
            return {item.name for item in (root / folder).iterdir()}
        return set()

    paths = ((entry, PurePosixPath(entry.key)) for entry in entries)
    # a second look, as some file systems do not tell upper from lower case
    return [
        # os.path takes a name that is too long as one that is not there
        entry
        for entry, path in paths
        if path.name not in names(path.parent) and not os.path.isfile(file_in(root, entry.key))
    ]


def check_files(root: Path, entries: Sequence[Entry], what: str) -> None:
    """See that every entry's file is there.

    Raises:
        DataError: names the first missing file and counts the others.
    """
    missing = missing_files(root, entries)
    if missing:
        others = f" (and {len(missing) - 1} more of {len(entries)})" if len(missing) > 1 else ""
        raise DataError(f"{missing[0].where}: no such file: {missing[0].key} in {root}{others}. {what}")


def _with_splits(listing: Listing, entries: list[Entry]) -> tuple[list[Entry], list[str]]:
    """The entries with a split each, and remarks on what was made here."""
    unsplit = [entry for entry in entries if entry.split is None]
    if unsplit and len(unsplit) < len(entries):
        raise DataError(f"{unsplit[0].where}: no split is given here, but other images have one. Fill it in.")
    labels = [class_name(entry.label) for entry in entries]
    if unsplit:
        if lonely := next((label for label, count in Counter(labels).items() if count < 2), None):
            raise DataError(
                f"{listing.name}: class {lonely!r} has one image only: two are needed, to train and to test."
            )
        made = split_three(labels, SPLIT_SEED)
        entries = [entry._replace(split=split) for entry, split in zip(entries, made, strict=True)]
        return entries, ["no split was given: 50/20/30 % of each class are train/val/test"]
    present = {entry.split for entry in entries}
    if "train" not in present or "val" in present or not listing.val_from_train:
        return entries, []
    entries = list(entries)
    train = [i for i, entry in enumerate(entries) if entry.split == "train"]
    for i, split in zip(train, split_val([labels[i] for i in train], SPLIT_SEED), strict=True):
        entries[i] = entries[i]._replace(split=split)
    return entries, ["no validation split was given: 20 % of each training class are val"]


def _refuse_same_names(firsts: Iterable[Entry]) -> None:
    """``firsts``: an entry of each label."""
    seen: dict[str, Entry] = {}
    for entry in firsts:
        name = class_name(entry.label)
        if not name:
            raise DataError(f"{entry.where}: the label {entry.label!r} is empty. Give the class a name.")
        other = seen.setdefault(name.casefold(), entry)
        if other is not entry:
            raise DataError(
                f"{entry.where}: class {entry.label!r} has the same name as {other.label!r} ({other.where}) once case, "
                f"blanks and underscores are ignored. Rename one, or merge them."
            )
