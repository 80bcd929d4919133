"""Class by class: how many test images, how many right before and after, and what the others were taken for."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from steadyclip.evaluation.answers import Answers
from steadyclip.evaluation.paired import change
from steadyclip.evaluation.records import Record
from steadyclip.report.verdict import Verdict


class ClassRow(NamedTuple):
    """One class of the test images: how many, how many the frozen model and the run named right, and the class that the
    run takes most of the others for, with their number; "" and 0 where that is not among the record's confusions."""

    name: str
    images: int
    before: int
    after: int
    taken_for: str = ""
    times: int = 0

    @property
    def change(self) -> float:
        """In percent points."""
        return 100 * (self.after - self.before) / self.images if self.images else 0.0

    @property
    def sure(self) -> bool:
        """The change is more than chance, even if both name as few of the same images right as these numbers allow."""
        place_N = np.arange(self.images)
        return self.images > 0 and change(place_N < self.before, place_N >= self.images - self.after).sure


def class_rows(found: Verdict) -> list[ClassRow]:
    """A row for each class of one's own test images, the worst first; [] where they were not measured."""
    rows = []
    for before, after in found.own.pairs:
        first: dict[str, tuple[str, int]] = {}
        for confusion in after.confusions:  # the most frequent first
            first.setdefault(confusion.true, (confusion.predicted, confusion.count))
        for was, now in zip(before.per_class, after.per_class, strict=True):
            rows.append(ClassRow(now.name, now.images, was.correct, now.correct, *first.get(now.name, ("", 0))))
    return sorted(rows, key=lambda row: (row.after / max(1, row.images), row.name))


def classes_csv(rows: Iterable[ClassRow]) -> str:
    """The rows with accuracies in percent."""
    lines = []
    for row in rows:
        shares = [f"{100 * right / row.images:.2f}" if row.images else "" for right in (row.before, row.after)]
        lines.append([row.name, row.images, *shares, f"{row.change:.2f}", row.taken_for, row.times or ""])
    return _csv(["class", "images", "frozen", "run", "change", "most_taken_for", "times"], lines)


def confusions_csv(answers: Answers) -> str:
    """Every pair of classes that is confused, the most frequent first, with one image as an example."""
    wrong = [
        row for row in zip(answers.label, answers.predicted, answers.path, answers.correct, strict=True) if not row[3]
    ]
    counts = Counter((label, predicted) for label, predicted, *_ in wrong)
    example = {(label, predicted): path for label, predicted, path, _ in reversed(wrong)}
    lines = [
        [*pair, count, example[pair]] for pair, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    ]
    return _csv(["class", "taken_for", "images", "example"], lines)


def find_answers(folders: Iterable[Path], record: Record, below: str = "") -> Answers | None:
    """The answers beside ``record`` in one of the run folders, in the folder ``below`` of their records; None if there
    are none."""
    for folder in folders:
        file = (folder / "records" / below / record.file_name).with_suffix(".parquet")
        if file.is_file():
            return Answers.read(file)
    return None


def _csv(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(lines)
    return out.getvalue()
