"""What of the catalog there is below a root folder, in lines for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.catalog.entries import Entry, catalog, find
from steadyclip.data.catalog.reading import archive_of, problems, survey, tally
from steadyclip.data.layouts import folders_in


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
        if self.found is None:
            counted = f"{self.entry.total:,} images expected"
        else:
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
        meant = find(folder.name)
        if folder.name in known:
            continue
        if meant:
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
    return Finding(entry, True, tally(entry, reading.present), tuple(problems(entry, reading, root)))
