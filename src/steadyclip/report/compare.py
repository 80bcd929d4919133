"""Two runs beside each other: which settings differ, how much better one is on the same test images, and on which."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic
from steadyclip.data.decode import UnreadableImage
from steadyclip.evaluation.answers import Answers
from steadyclip.evaluation.forgetting import same_test
from steadyclip.evaluation.paired import Difference, change, unpacked
from steadyclip.evaluation.records import Record, Run
from steadyclip.report.cells import render
from steadyclip.training.run import identity

if TYPE_CHECKING:
    from steadyclip.data import ImageData

_SHOWN, _SIDE = 48, 96


class Changed(NamedTuple):
    """An image that one run names right and the other wrong: its class, and what each took it for."""

    path: str
    label: str
    first: str
    second: str
    thumbnail: str = ""


@dataclass(frozen=True)
class OnOneTest:
    """Both runs on the same test images.

    Attributes:
        name: which images.
        first, second: top-1 accuracy in percent.
        difference: second minus first in percent points, with its paired 95 % interval.
        gained, lost: images that only the second names right, or only the first; None where a run kept no answers.
    """

    name: str
    images: int
    first: float
    second: float
    difference: Difference
    gained: tuple[Changed, ...] | None
    lost: tuple[Changed, ...] | None


@dataclass(frozen=True)
class Comparison:
    """Two runs. ``settings`` are (name, value of the first, value of the second) of what differs."""

    runs: tuple[str, str]
    settings: tuple[tuple[str, str, str], ...]
    tests: tuple[OnOneTest, ...]


def compare(first: Path, second: Path) -> Comparison:
    """Compares two run folders.

    Raises:
        DataError: one is no run, or both were not scored on the same images.
    """
    runs = [Run.read(folder / "run.json") for folder in (first, second)]
    a, b = (identity(run) for run in runs)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    settings = tuple((name, _value(a, name), _value(b, name)) for name in names)
    tests = []
    for file in sorted((first / "records").glob("*.json")):
        record = Record.read(file)
        for other_file in sorted((second / "records").glob("*.json")):
            other = Record.read(other_file)
            same = record.wise_alpha is None is other.wise_alpha and record.precision == other.precision
            if same and record.correct and other.correct and (same_test(record, other) or _same_images(record, other)):
                tests.append(_on_one_test(record, other, file, other_file))
    if not tests:
        raise DataError(
            f"{first} and {second} were not scored on the same test images: evaluate both with the same --data."
        )
    return Comparison((str(first), str(second)), settings, tuple(tests))


def _same_images(a: Record, b: Record) -> bool:
    """Two models may be compared, too, as long as images and names are the same."""
    return (a.data.hash, a.data.classes) == (b.data.hash, b.data.classes)


def _on_one_test(a: Record, b: Record, a_file: Path, b_file: Path) -> OnOneTest:
    was_right, now_right = (unpacked(record.correct, record.data.images) for record in (a, b))
    difference = change(was_right, now_right, [int(number) for number in a.groups.split()])
    gained = lost = None
    files = [file.with_suffix(".parquet") for file in (a_file, b_file)]
    if all(file.is_file() for file in files):
        one, other = map(Answers.read, files)
        rows = map(Changed, one.path, one.label, one.predicted, other.predicted)
        turned = list(zip(rows, one.correct, other.correct, strict=True))
        gained = tuple(image for image, was, now in turned if now and not was)
        lost = tuple(image for image, was, now in turned if was and not now)
    before, after = (100 * float(right.mean()) for right in (was_right, now_right))
    name = ", ".join(filter(None, [a.data.name, a.data.subset, a.data.domain]))
    return OnOneTest(name, a.data.images, before, after, difference, gained, lost)


def write_comparison(found: Comparison, out: Path, data: ImageData | None = None) -> Path:
    """One self-contained page; with ``data`` it shows the images that changed."""
    shown = []
    for test in found.tests:
        parts = [(title, _with_pictures(rows, data), len(rows)) for title, rows in _parts(test)]
        shown.append((test, parts))
    title = f"{found.runs[0]} and {found.runs[1]}"
    write_atomic(out, render("compare.html", title=title, found=found, shown=shown).encode())
    return out


def _parts(test: OnOneTest) -> list[tuple[str, tuple[Changed, ...]]]:
    return [("right only in the second", test.gained or ()), ("right only in the first", test.lost or ())]


def _with_pictures(rows: tuple[Changed, ...], data: ImageData | None) -> list[Changed]:
    rows = rows[:_SHOWN]
    if data is None:
        return list(rows)
    images = data.splits["test"]
    place = {key: i for i, key in enumerate(images.keys)}
    return [row._replace(thumbnail=_thumbnail(data, place[row.path])) if row.path in place else row for row in rows]


def _thumbnail(data: ImageData, index: int) -> str:
    try:
        image = data.splits["test"].read(index)
    except UnreadableImage:
        return ""
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()


def _value(facts: Mapping[str, Any], name: str) -> str:
    """A setting, in short; a dash where there is no such setting."""
    if name not in facts:
        return "\N{EN DASH}"
    value = facts[name]
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
