"""The differences between methods that were scored on the same test images, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steadyclip.evaluation.paired import Bootstrap, Difference, Scores, unpacked
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import BASELINE, HALVES, Cell, Row, Section, grouped

REFERENCES = (BASELINE, "full", "lora")
"""Rows that all others are compared with, where they are there; what is not here is compared with its own variants."""
_OTHER_IMAGES = "not scored on the same test images as {}."


class Paired:
    """The rows of a base-to-new section, resampled once; those with the same test images by the same draws."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.images: dict[str, dict[tuple[str, str], str]] = {}
        self.scores: dict[str, Scores] = {}
        draws: dict[tuple[tuple[tuple[str, str], str], ...], Bootstrap] = {}
        for row in section.rows:
            if found := _answers(row.records):
                images, correct, groups = found
                key = tuple(sorted(images.items()))
                if key not in draws:
                    draws[key] = Bootstrap(groups)
                self.images[row.label], self.scores[row.label] = images, draws[key].scores(correct)

    def cells(self, row: Row, reference: Row) -> list[Cell]:
        """Base, new and H of a row minus those of another, or why not."""
        ours, theirs = row.label, reference.label
        if ours in self.scores and self.images[ours] == self.images.get(theirs):
            found = (self.scores[ours].minus(self.scores[theirs], column) for column in (0, 1, None))
            return [_cell(difference, row.cells[0].seeds) for difference in found]
        reason = next((cell.reason for cell in row.cells if cell.reason), _OTHER_IMAGES.format(reference.label))
        return [Cell(reason=reason)] * 3

    def mark_clear(self) -> None:
        """Lets the differences to the baseline say which changes of the section are clear."""
        if (baseline := self.section.baseline) is None:
            return
        for row in self.section.rows:
            for cell, difference in zip(row.cells, self.cells(row, baseline), strict=False):
                if cell.trend and difference.trend:
                    cell.trend, self.section.paired = difference.trend, True

    def against(self, name: str) -> Section | None:
        """Every other row minus the row ``name``; None if that is not there, or alone.

        Only REFERENCES are compared with all rows, another method with its own variants: an ablation.
        """
        reference = next((row for row in self.section.rows if row.label == name and name in self.scores), None)
        others = [
            row
            for row in self.section.rows
            if row is not reference and (name in REFERENCES or row.label.startswith(f"{name}["))
        ]
        if reference is None or not others:
            return None
        rows = [Row(row.label, self.cells(row, reference), row.records) for row in others]
        over = "data sets, seeds" if len({data for data, _ in self.images[name]}) > 1 else "seeds"
        title = f"{self.section.title}: difference to {name}"
        return Section(title, f"95 % intervals over {over} and test images", (*HALVES, "H"), rows)


def differences(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Marks the clear changes of all base-to-new sections, and gives one section of differences for each reference,
    and for each method beside variants of it (`dra` beside `dra[l1=off]`).

    They are of the averages where there are several data sets, else of the one data set. Intervals are over data sets,
    seeds and test images (``evaluation.paired``).
    """
    pairs = [Paired(section) for section in sections if section.base_to_new]
    for paired in pairs:
        paired.mark_clear()
    # the averages stand behind the data sets
    if not pairs or (len(pairs) > 1 and not pairs[-1].section.average):
        return ()
    names = dict.fromkeys((*REFERENCES, *(row.label for row in pairs[-1].section.rows)))
    return tuple(found for name in names if (found := pairs[-1].against(name)))


def _answers(
    records: Sequence[Record],
) -> tuple[dict[tuple[str, str], str], dict[str, list[np.ndarray]], dict[str, list[np.ndarray]]] | None:
    """What was scored, (data set, half) -> hash of the images, and data set -> for each half which of them were right,
    (S, N), and their groups (N,); None where something is missing."""
    images: dict[tuple[str, str], str] = {}
    correct: dict[str, list[np.ndarray]] = {}
    groups: dict[str, list[np.ndarray]] = {}
    for name, of_data in grouped(records, lambda r: r.data.name).items():
        for half in HALVES:
            of_half = [r for r in of_data if r.data.subset == half]
            same = {(r.data.hash, r.data.images, len(r.data.skipped)) for r in of_half}
            if len(same) != 1 or not all(r.correct for r in of_half):
                return None
            images[name, half] = of_half[0].data.hash
            answers_SN = np.stack([unpacked(r.correct, r.data.images) for r in of_half])
            correct.setdefault(name, []).append(answers_SN)
            numbers = [int(number) for number in of_half[0].groups.split()] or range(answers_SN.shape[1])
            groups.setdefault(name, []).append(np.array(numbers))
        if len({len(answers_SN) for answers_SN in correct[name]}) > 1:
            return None
    return images, correct, groups


def _cell(difference: Difference, seeds: int) -> Cell:
    trend = "same" if not difference.sure else "up" if difference.mean > 0 else "down"
    return Cell(difference.mean, low=difference.low, high=difference.high, seeds=seeds, trend=trend)
