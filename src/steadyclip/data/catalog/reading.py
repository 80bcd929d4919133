"""From a catalog entry and a root folder to the images that are there, and what is wrong with them.

A reader lists what its layout names and does not judge; ``problems`` compares that with what must be there.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from steadyclip.core.errors import DataError
from steadyclip.data.catalog.entries import Entry, catalog, plain
from steadyclip.data.images import FileStore
from steadyclip.data.layouts import SPLIT_FILES, archives_in, folders_in, is_image, zhou_entries
from steadyclip.data.listing import SPLIT_SEED, SPLITS, Listing, class_name, missing_files
from steadyclip.data.listing import Entry as Picture
from steadyclip.data.sampling import split_three

DOMAIN_SHARES = (0.6, 0.2)
"""Of each class in each domain for train and val: there is no official split. DomainBed holds out 20 % of a domain; a
further 20 % here are the test images of the domains that are trained on."""

BORDER = 2
"""Pixels that ObjectNet's own evaluation code cuts off on every side."""

CLASS_NAMES = "classnames.txt"


@dataclass(frozen=True)
class Reading:
    """What a layout names: ``listing.entries`` less ``missing`` are there."""

    listing: Listing
    missing: tuple[Picture, ...] = ()

    @cached_property
    def present(self) -> list[Picture]:
        """The images that are there."""
        gone = {picture.key for picture in self.missing}
        return [picture for picture in self.listing.entries if picture.key not in gone]


def read(entry: Entry, root: Path) -> Listing:
    """The images of ``entry`` below ``root``, complete. Files are listed, none is opened.

    Raises:
        DataError: something is missing or of another kind than expected.
    """
    reading = survey(entry, root)
    found = problems(entry, reading, root)
    if found:
        raise DataError(f"{entry.name}: {found[0]}")
    there = tally(entry, reading.present)
    more = [f"{part} {there[part]:,} for {count:,}" for part, count in entry.counts.items() if there[part] > count]
    if more:
        reading.listing.notes.append(f"more images than the official data set has: {', '.join(more)}")
    return reading.listing


def survey(entry: Entry, root: Path) -> Reading:
    """What there is of ``entry``, complete or not.

    Raises:
        DataError: a folder or a list without which nothing can be told is missing.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}: name the one that holds the data sets, with --root or STEADYCLIP_DATA.")
    base = root / entry.folder
    if not base.is_dir():
        archive = archive_of(entry, root)
        instead = f", but {archive} lies there: extract it" if archive else ""
        place = f"put it into the folder {entry.folder} there"
        raise DataError(f"{entry.name} is not in {root}{instead}: {place} ({entry.home}).")
    images = base / entry.images
    if not images.is_dir():
        raise DataError(f"{entry.name}: the folder {entry.images} is missing in {base}{_instead(base)}")
    return _READERS[entry.layout](entry, base)


def archive_of(entry: Entry, root: Path) -> str | None:
    """The name of an archive in ``root`` that begins with the name of ``entry`` or of its folder, if there is one; that
    of ImageNet-A begins with ImageNet's too, and is not ImageNet's."""
    for archive in archives_in(root):
        words = [word for item in catalog() for word in (item.folder, item.name)]
        words = [word for word in words if plain(archive).startswith(plain(word))]
        if words and max(words, key=len) in (entry.folder, entry.name):
            return archive
    return None


def problems(entry: Entry, reading: Reading, root: Path) -> list[str]:
    """One line for each way in which ``reading`` is not the official data set, with the remedy."""
    lists = entry.split or "images_variant_*.txt"
    again = f"Extract the archive into {root / entry.folder} again; it is incomplete or another one."
    found = []
    named, there = tally(entry, reading.listing.entries), tally(entry, reading.present)
    classes = len(reading.listing.classes or ())
    if entry.layout in ("split file", "aircraft") and named != entry.counts:
        wrong = ", ".join(f"{part} {named[part]:,} for {count:,}" for part, count in entry.counts.items())
        source = SPLIT_FILES if entry.split else entry.home
        found.append(f"{lists} has not the official number of images ({wrong}). Take it from {source}.")
    if classes != entry.classes and not found:  # what such a list names would be blamed on the archive
        found.append(f"{classes} classes where {entry.classes} are expected. {again}")
    if reading.missing:
        lost = f"{len(reading.missing):,} of the {len(reading.listing.entries):,} images named in {lists}"
        found.append(f"{lost} are not there, for instance {reading.missing[0].key}. {again}")
        return found
    if empty := _empty(entry, reading):
        folders = f"{len(empty):,} class folders are missing or empty, for instance {empty[0]}"
        found.append(f"{folders}{_loose(entry, root) or '. ' + again}")
    short = [f"{part} {there[part]:,} of {count:,}" for part, count in entry.counts.items() if there[part] < count]
    if short and not found:
        found.append(f"images are missing ({', '.join(short)}). {again}")
    return found


def tally(entry: Entry, pictures: Iterable[Picture]) -> dict[str, int]:
    """How many images there are of each split, or of each domain, that ``entry`` counts."""
    counts = Counter(_part(entry, picture) for picture in pictures)
    return {part: counts[part] for part in entry.counts}


def _split_file(entry: Entry, base: Path) -> Reading:
    """Images as one of CoOp's split files names them."""
    path = _needed(entry, base, entry.split, SPLIT_FILES)
    pictures, classes = zhou_entries(path)
    images = base / entry.images
    listing = Listing(entry.name, pictures, FileStore(images), entry.templates, classes)
    return Reading(listing, tuple(missing_files(images, pictures)))


def _aircraft(entry: Entry, base: Path) -> Reading:
    """The authors' lists: ``variants.txt`` is the classes, ``images_variant_train.txt`` "number class name"."""
    classes = tuple(_lines(_needed(entry, base, "variants.txt", entry.home)))
    pictures = []
    for split in SPLITS:
        name = f"images_variant_{split}.txt"
        for row, line in enumerate(_lines(_needed(entry, base, name, entry.home)), start=1):
            number, _, label = line.partition(" ")
            if label not in classes:
                raise DataError(f"{entry.name}: {name} row {row}: {label!r} is not in variants.txt. Take both again.")
            pictures.append(Picture(f"{number}.jpg", label, split, f"{name} row {row}"))
    images = base / entry.images
    listing = Listing(entry.name, pictures, FileStore(images), entry.templates, classes)
    return Reading(listing, tuple(missing_files(images, pictures)))


def _imagenet(entry: Entry, base: Path) -> Reading:
    """``train`` and ``val`` with a folder for each WordNet id. The field tests on ``val``: it is test here, never
    validation. So there is no validation split, and all of train is trained on."""
    names = _class_names(entry, base)
    images = base / entry.images
    pictures = []
    for folder, split in (("train", "train"), ("val", "test")):
        if not (images / folder).is_dir():
            raise DataError(f"{entry.name}: the folder {entry.images}/{folder} is missing in {base}{_instead(images)}")
        pictures += [picture for wnid in names for picture in _in_folder(images, f"{folder}/{wnid}", wnid, split)]
    listing = Listing(entry.name, pictures, FileStore(images), entry.templates, tuple(names), names=names)
    listing.val_from_train = False
    return Reading(listing)


def _wnids(entry: Entry, base: Path) -> Reading:
    """Test images in a folder for each WordNet id, of all classes of ImageNet or of the entry's own."""
    names = _class_names(entry, base)
    if entry.classes < len(names):
        own = _table(f"{entry.name.lower()}.txt")
        if lost := [wnid for wnid in own if wnid not in names]:
            raise DataError(f"{entry.name}: {CLASS_NAMES} does not name {lost[0]}. Take it from {SPLIT_FILES}.")
        names = {wnid: names[wnid] for wnid in own}
    images = base / entry.images
    pictures = [picture for wnid in names for picture in _in_folder(images, wnid, wnid, "test")]
    return Reading(Listing(entry.name, pictures, FileStore(images), entry.templates, tuple(names), names=names))


def _numbers(entry: Entry, base: Path) -> Reading:
    """Test images in folders 0, 1, ...: the place of the class among ImageNet's."""
    names = _class_names(entry, base)
    images = base / entry.images
    pictures = [picture for label, wnid in enumerate(names) for picture in _in_folder(images, str(label), wnid, "test")]
    return Reading(Listing(entry.name, pictures, FileStore(images), entry.templates, tuple(names), names=names))


def _objectnet(entry: Entry, base: Path) -> Reading:
    """Test images in a folder for each class, of which those that are also ImageNet's count."""
    names = dict(line.split("\t") for line in _table("objectnet.txt"))
    images = base / entry.images
    pictures = [picture for folder in names for picture in _in_folder(images, folder, folder, "test")]
    listing = Listing(entry.name, pictures, FileStore(images), entry.templates, tuple(names), names=names)
    listing.border = BORDER
    return Reading(listing)


def _domains(entry: Entry, base: Path) -> Reading:
    """``domain/class/image``. The split is made here, the same on every machine."""
    images = base / entry.images
    pictures = []
    for domain in entry.domains:
        if not (images / domain).is_dir():
            raise DataError(f"{entry.name}: the folder {domain} is missing in {images}{_instead(images)}")
        for folder in folders_in(images / domain):
            place = f"{domain}/{folder.name}"
            pictures += [p._replace(domain=domain) for p in _in_folder(images, place, folder.name, None)]
    splits = split_three([f"{p.domain}/{p.label}" for p in pictures], SPLIT_SEED, DOMAIN_SHARES)
    pictures = [picture._replace(split=split) for picture, split in zip(pictures, splits, strict=True)]
    classes = tuple(sorted({picture.label for picture in pictures}, key=class_name))
    note = "no official split: 60/20/20 % of each class in each domain are train/val/test"
    return Reading(Listing(entry.name, pictures, FileStore(images), entry.templates, classes, [note]))


_READERS: dict[str, Callable[[Entry, Path], Reading]] = {
    "split file": _split_file, "aircraft": _aircraft, "imagenet": _imagenet, "wnids": _wnids, "numbers": _numbers,
    "objectnet": _objectnet, "domains": _domains,
}  # fmt: skip


def _in_folder(images: Path, place: str, label: str, split: str | None) -> list[Picture]:
    """The images in the folder ``place``, by name; none if it is not there."""
    where = f"folder {place}"
    try:
        with os.scandir(images / place) as items:
            names = sorted(item.name for item in items if is_image(item.name))
    except FileNotFoundError:
        return []
    return [Picture(f"{place}/{name}", label, split, where) for name in names]


def _class_names(entry: Entry, base: Path) -> dict[str, str]:
    """WordNet id -> class name in ImageNet's order; a variant may do with the file of ``imagenet`` beside it."""
    beside = base.parent / "imagenet" / CLASS_NAMES
    path = base / CLASS_NAMES
    if not path.is_file() and beside.is_file():
        path = beside
    names = dict(
        line.split(" ", 1) for line in _lines(_needed(entry, path.parent, CLASS_NAMES, SPLIT_FILES)) if " " in line
    )
    if len(names) < entry.classes or list(names) != sorted(names):
        raise DataError(
            f"{entry.name}: {path} must name ImageNet's classes in the order of their ids, one 'n01440764 tench' a "
            f"line; it has {len(names)}. Take it from {SPLIT_FILES}."
        )
    return names


def _table(name: str) -> list[str]:
    return (files("steadyclip.data.catalog") / name).read_text(encoding="utf-8").splitlines()


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _needed(entry: Entry, base: Path, name: str, source: str) -> Path:
    if not (base / name).is_file():
        raise DataError(f"{entry.name}: {name} is missing in {base}. Take it from {source}.")
    return base / name


def _instead(folder: Path) -> str:
    """What ``folder`` holds in the place of what was looked for, and what to do."""
    names = sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))
    if archives := archives_in(folder):
        return f", but {archives[0]} lies there: extract it."
    return f", which holds {', '.join(names[:5]) or 'nothing'}: extract the archive into it, or move the folder there."


def _part(entry: Entry, picture: Picture) -> str | None:
    return picture.domain if entry.domains else picture.split


def _empty(entry: Entry, reading: Reading) -> list[str]:
    """The classes without an image in some split or domain; a split file may leave a class out of one."""
    if entry.split or entry.layout == "aircraft":
        return []
    seen = {(_part(entry, picture), picture.label) for picture in reading.present}
    labels = reading.listing.classes or ()
    return [f"{label} ({part})" for part in entry.counts for label in labels if (part, label) not in seen]


def _loose(entry: Entry, root: Path) -> str:
    """A remark on ImageNet's validation images as they come: all in one folder."""
    folder = root / entry.folder / entry.images / "val"
    if entry.layout == "imagenet" and folder.is_dir() and any(is_image(item.name) for item in folder.iterdir()):
        return f": {folder} holds loose images. Sort them into a folder for each class."
    return ""
