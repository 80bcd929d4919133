"""What of the catalog there is below a root folder, what is wrong with it, and the images of what is complete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.catalog.entries import Entry, catalog, find
from steadyclip.data.catalog.reading import Reading, archive_of, survey
from steadyclip.data.layouts import SPLIT_FILES, folders_in, is_image
from steadyclip.data.listing import Entry as Picture
from steadyclip.data.listing import Listing


def read(entry: Entry, root: Path) -> Listing:
    """The images of ``entry`` below ``root``, complete. Files are listed, none is opened.

    Raises:
        DataError: something is missing or of another kind than expected.
    """
    reading = survey(entry, root)
    if found := _problems(entry, reading, root):
        raise DataError(f"{entry.name}: {found[0]}")
    there = _tally(entry, reading.present)
    more = [f"{part} {there[part]:,} for {count:,}" for part, count in entry.counts.items() if there[part] > count]
    if more:
        reading.listing.notes.append(f"more images than the official data set has: {', '.join(more)}")
    return reading.listing


@dataclass(frozen=True)
class Finding:
    """One data set as it was found. ``found`` counts the images by split or domain; None: they were not counted.
    ``problems`` of one that is not there is at most one: an archive that lies in its place."""

    entry: Entry
    there: bool
    found: dict[str, int] | None
    problems: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Everything that must be there is there."""
        return self.there and not self.problems

    def lines(self) -> list[str]:
        """One line, or one for each problem."""
        name = f"{self.entry.name:<16}"
        if not self.there:
            (instead,) = self.problems or (f" ({self.entry.home})",)
            return [f"{name}not there    {self.entry.folder}/{instead}"]
        counted = f"{self.entry.total:,} images expected"
        if self.found is not None:
            parts = ", ".join(f"{part} {count:,}" for part, count in self.found.items())
            counted = f"{sum(self.found.values()):,} of {self.entry.total:,} images ({parts})"
        if self.complete:
            return [f"{name}complete     {counted}, {self.entry.classes:,} classes"]
        return [f"{name}incomplete   {counted}: {problem}" for problem in self.problems]


def check(root: Path) -> tuple[Finding, ...]:
    """Every data set of the catalog as it is below ``root``. Files are listed, none is opened.

    Raises:
        DataError: ``root`` is no folder.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}: name the one that holds the data sets.")
    return tuple(_finding(entry, root) for entry in catalog())


def strangers(root: Path) -> list[str]:
    """A line on each folder below ``root`` that is not the folder of a data set of the catalog."""
    known = [entry.folder for entry in catalog()]
    lines = []
    for folder in folders_in(root):
        if folder.name in known:
            continue
        if meant := find(folder.name):
            lines.append(f"{folder.name}/ is not read: rename it to {meant.folder} if it is {meant.name}.")
        else:
            hint = nearest(folder.name, known)
            lines.append(f"{folder.name}/ is not in the catalog.{hint} Alone: steadyclip data check --data {folder}")
    return lines


def _finding(entry: Entry, root: Path) -> Finding:
    if not (root / entry.folder).is_dir():
        archive = archive_of(entry, root)
        return Finding(entry, False, None, (f", but {archive} lies there: extract it.",) if archive else ())
    try:
        reading = survey(entry, root)
    except DataError as error:
        return Finding(entry, True, None, (str(error).removeprefix(f"{entry.name}: "),))
    return Finding(entry, True, _tally(entry, reading.present), tuple(_problems(entry, reading, root)))


def _problems(entry: Entry, reading: Reading, root: Path) -> list[str]:
    """One line for each way in which ``reading`` is not the official data set, with the remedy."""
    lists = entry.split or "images_variant_*.txt"
    again = f"Extract the archive into {root / entry.folder} again; it is incomplete or another one."
    found = []
    named, there = _tally(entry, reading.listing.entries), _tally(entry, reading.present)
    labels = reading.listing.classes or ()
    if entry.listed and named != entry.counts:
        wrong = ", ".join(f"{part} {named[part]:,} for {count:,}" for part, count in entry.counts.items())
        source = SPLIT_FILES if entry.split else entry.home
        found.append(f"{lists} has not the official number of images ({wrong}). Take it from {source}.")
    elif len(labels) != entry.classes:
        found.append(f"{len(labels)} classes where {entry.classes} are expected. {again}")
    if reading.missing:
        lost = f"{len(reading.missing):,} of the {len(reading.listing.entries):,} images named in {lists}"
        found.append(f"{lost} are not there, for instance {reading.missing[0].key}. {again}")
        return found
    if not entry.listed:  # a split file may leave a class out of one split
        seen = {(_part(entry, picture), picture.label) for picture in reading.present}
        if empty := [f"{label} ({part})" for part in entry.counts for label in labels if (part, label) not in seen]:
            folders = f"{len(empty):,} class folders are missing or empty, for instance {empty[0]}"
            found.append(f"{folders}{_loose(entry, root) or '. ' + again}")
    short = [f"{part} {there[part]:,} of {count:,}" for part, count in entry.counts.items() if there[part] < count]
    if short and not found:
        found.append(f"images are missing ({', '.join(short)}). {again}")
    return found


def _tally(entry: Entry, pictures: Iterable[Picture]) -> dict[str, int]:
    """How many images there are of each split, or of each domain, that ``entry`` counts."""
    counts = Counter(_part(entry, picture) for picture in pictures)
    return {part: counts[part] for part in entry.counts}


def _part(entry: Entry, picture: Picture) -> str | None:
    return picture.domain if entry.domains else picture.split


def _loose(entry: Entry, root: Path) -> str:
    """A remark on ImageNet's validation images as they come: all in one folder."""
    folder = root / entry.folder / entry.images / "val"
    if entry.layout == "imagenet" and folder.is_dir() and any(is_image(item.name) for item in folder.iterdir()):
        return f": {folder} holds loose images. Sort them into a folder for each class."
    return ""
