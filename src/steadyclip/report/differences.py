"""The differences between methods that were scored on the same test images, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from steadyclip.evaluation.paired import Bootstrap, Difference, unpacked
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import BASELINE, HALVES, Cell, Row, Section, grouped

REFERENCES = (BASELINE, "full", "lora")
"""Rows that all others are compared with, where they are there."""
_OTHER_IMAGES = "not scored on the same test images as {}."


def differences(sections: Sequence[Section]) -> tuple[Section, ...]:
    """One section for each reference: base, new and H of every other row minus its own.

    They are of the averages where there are several data sets, else of the one data set. Intervals are over data sets,
    seeds and test images (``evaluation.paired``).
    """
    pairs = [section for section in sections if section.base_to_new]
    if not pairs:
        return ()
    whole = pairs[-1]  # the averages stand behind the data sets
    if len(pairs) > 1 and not len(whole.columns) > len(HALVES) + 1:
        return ()
    known = {row.label: row for row in whole.rows}
    return tuple(found for name in REFERENCES if name in known and (found := _against(known[name], whole)))


def mark_clear(section: Section) -> None:
    """Lets the paired differences to the baseline say which changes of a base-to-new section are clear."""
    found = _against(section.baseline, section) if section.base_to_new and section.baseline else None
    for row in found.rows if found else ():
        (own,) = (other for other in section.rows if other.label == row.label)
        for cell, difference in zip(own.cells, row.cells, strict=False):
            if cell.trend and difference.trend:
                cell.trend, section.paired = difference.trend, True


def _against(reference: Row, whole: Section) -> Section | None:
    theirs = _answers(reference.records)
    if theirs is None:
        return None
    images, correct = theirs
    bootstrap = Bootstrap({name: [np.arange(half_SN.shape[1]) for half_SN in of] for name, of in correct.items()})
    base, rows = bootstrap.scores(correct), []
    for row in whole.rows:
        if row is reference:
            continue
        ours = _answers(row.records)
        if ours and ours[0] == images:
            found = bootstrap.scores(ours[1])
            cells = [_cell(found.minus(base, column), row.cells[0].seeds) for column in (0, 1, None)]
        else:
            reason = next((cell.reason for cell in row.cells if cell.reason), _OTHER_IMAGES.format(reference.label))
            cells = [Cell(reason=reason)] * 3
        rows.append(Row(row.label, cells, row.records))
    over = "data sets, seeds" if len(correct) > 1 else "seeds"
    title = f"{whole.title}: difference to {reference.label}"
    return Section(title, f"95 % intervals over {over} and test images", (*HALVES, "H"), rows) if rows else None


def _answers(records: Sequence[Record]) -> tuple[dict[tuple[str, str], str], dict[str, list[np.ndarray]]] | None:
    """What was scored, (data set, half) -> hash of the images, and data set -> for each half which of them were right,
    (S, N); None where something is missing."""
    images: dict[tuple[str, str], str] = {}
    correct: dict[str, list[np.ndarray]] = {}
    for name, of_data in grouped(records, lambda r: r.data.name).items():
        for half in HALVES:
            of_half = [r for r in of_data if r.data.subset == half]
            same = {(r.data.hash, r.data.images, len(r.data.skipped)) for r in of_half}
            if len(same) != 1 or not all(r.correct for r in of_half):
                return None
            images[name, half] = of_half[0].data.hash
            answers_SN = np.stack([unpacked(r.correct, r.data.images) for r in of_half])
            correct.setdefault(name, []).append(answers_SN)
        if len({len(answers_SN) for answers_SN in correct[name]}) > 1:
            return None
    return images, correct


def _cell(difference: Difference, seeds: int) -> Cell:
    trend = "same" if not difference.sure else "up" if difference.mean > 0 else "down"
    return Cell(difference.mean, low=difference.low, high=difference.high, seeds=seeds, trend=trend)
