"""From a catalog entry and a root folder to the images that are there. What is named is listed, not judged."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    missing: tuple[Picture, ...]

    @cached_property
    def present(self) -> list[Picture]:
        """The images that are there."""
        gone = {picture.key for picture in self.missing}
        return [picture for picture in self.listing.entries if picture.key not in gone]


_Named = tuple[list[Picture], tuple[str, ...], Mapping[str, str] | None]
"""Images and classes as a layout names them, and names for prompts where they are not the classes themselves."""


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
    read = {"split file": _split_file, "aircraft": _aircraft, "domains": _domains}.get(entry.layout, _class_folders)
    pictures, classes, names = read(entry, base)
    listing = Listing(entry.name, pictures, FileStore(images), entry.templates, classes, names=names)
    listing.val_from_train = entry.layout != "imagenet"  # all of its train is trained on
    listing.border = BORDER if entry.layout == "objectnet" else 0
    if entry.domains:
        listing.notes.append("no official split: 60/20/20 % of each class in each domain are train/val/test")
    return Reading(listing, tuple(missing_files(images, pictures)) if entry.listed else ())


def archive_of(entry: Entry, root: Path) -> str | None:
    """The name of an archive in ``root`` that begins with the name of ``entry`` or of its folder, if there is one; that
    of ImageNet-A begins with ImageNet's too, and is not ImageNet's."""
    for archive in archives_in(root):
        words = [word for item in catalog() for word in (item.folder, item.name)]
        words = [word for word in words if plain(archive).startswith(plain(word))]
        if words and max(words, key=len) in (entry.folder, entry.name):
            return archive
    return None


def _split_file(entry: Entry, base: Path) -> _Named:
    """Images as one of CoOp's split files names them."""
    return *zhou_entries(_needed(entry, base, entry.split, SPLIT_FILES)), None


def _aircraft(entry: Entry, base: Path) -> _Named:
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
    return pictures, classes, None


def _class_folders(entry: Entry, base: Path) -> _Named:
    """A folder for each class: its WordNet id, its place among ImageNet's classes, or ObjectNet's name of it.

    All are test images but ImageNet's ``train``. The field tests on its ``val``: it is test here, never validation.
    """
    names = _class_names(entry, base)
    images = base / entry.images
    pictures = []
    for part, split in {"train": "train", "val": "test"}.items() if entry.layout == "imagenet" else [("", "test")]:
        if not (images / part).is_dir():
            raise DataError(f"{entry.name}: the folder {entry.images}/{part} is missing in {base}{_instead(images)}")
        for number, label in enumerate(names):
            folder = str(number) if entry.layout == "numbers" else label
            pictures += _in_folder(images, f"{part}/{folder}".lstrip("/"), label, split)
    return pictures, tuple(names), names


def _domains(entry: Entry, base: Path) -> _Named:
    """``domain/class/image``. The split is made here, the same on every machine."""
    images = base / entry.images
    pictures = []
    for domain in entry.domains:
        if not (images / domain).is_dir():
            raise DataError(f"{entry.name}: the folder {domain} is missing in {images}{_instead(images)}")
        for folder in folders_in(images / domain):
            pictures += _in_folder(images, f"{domain}/{folder.name}", folder.name, None, domain)
    splits = split_three([f"{p.domain}/{p.label}" for p in pictures], SPLIT_SEED, DOMAIN_SHARES)
    pictures = [picture._replace(split=split) for picture, split in zip(pictures, splits, strict=True)]
    return pictures, tuple(sorted({picture.label for picture in pictures}, key=class_name)), None


def _in_folder(images: Path, place: str, label: str, split: str | None, domain: str | None = None) -> list[Picture]:
    """The images in the folder ``place``, by name; none if it is not there."""
    try:
        names = sorted(name for name in os.listdir(images / place) if is_image(name))
    except FileNotFoundError:
        return []
    return [Picture(f"{place}/{name}", label, split, f"folder {place}", domain) for name in names]


def _class_names(entry: Entry, base: Path) -> dict[str, str]:
    """Folder -> class name, in the order of the classes; a variant of ImageNet may do with the file of ``imagenet``
    beside it."""
    if entry.layout == "objectnet":  # those of its classes that are also ImageNet's
        return dict(line.split("\t") for line in _table("objectnet.txt"))
    beside = base.parent / "imagenet"
    if not (base / CLASS_NAMES).is_file() and (beside / CLASS_NAMES).is_file():
        base = beside
    path = _needed(entry, base, CLASS_NAMES, SPLIT_FILES)
    names = dict(line.split(" ", 1) for line in _lines(path) if " " in line)
    if len(names) < entry.classes or list(names) != sorted(names):
        raise DataError(
            f"{entry.name}: {path} must name ImageNet's classes in the order of their ids, one 'n01440764 tench' a "
            f"line; it has {len(names)}. Take it from {SPLIT_FILES}."
        )
    own = _table(f"{entry.name.lower()}.txt") if entry.classes < len(names) else list(names)
    if lost := [wnid for wnid in own if wnid not in names]:
        raise DataError(f"{entry.name}: {CLASS_NAMES} does not name {lost[0]}. Take it from {SPLIT_FILES}.")
    return {wnid: names[wnid] for wnid in own}


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
