"""The differences between methods that were scored on the same test images, with paired intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from steadyclip.evaluation.paired import Bootstrap, Difference, Scores, unpacked
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import BASELINE, HALVES, MEANS, Cell, Row, Section, grouped

REFERENCES = (BASELINE, "full", "lora", "lora[alpha=1.414]")
"""Rows that all others are compared with, where they are there; what is not here is compared with its own variants. The
last is CLIP-LoRA with the factor of its authors' code, as `recipes/published` runs it."""
_OF_TRANSFER = "flyp"
"""One more, where domains or other data were scored: what ARF is, without anchors."""
_OTHER_IMAGES = "not scored on the same test images as {}."

Sets = dict[str, list[np.ndarray]]
Seeds = dict[str, tuple[int | None, ...]]


@dataclass(frozen=True)
class Answers:
    """What a row was scored on: (test set, half) -> hash of the images; and for each test set the seeds (S), and for
    each half of it which images were right, (S, N), and their groups (N,)."""

    images: dict[tuple[Any, str], str]
    seeds: Seeds
    correct: Sets
    groups: Sets

    def of_seeds(self, seeds: Seeds) -> Sets:
        """Which were right with some of the seeds, test set by test set."""
        picks = {test: [self.seeds[test].index(seed) for seed in of] for test, of in seeds.items()}
        return {test: [correct_SN[picks[test]] for correct_SN in of] for test, of in self.correct.items()}


@dataclass(frozen=True)
class Piece:
    """Columns of a section that are resampled together: base, new and H; in other sections each column alone.

    Attributes:
        names: of the columns, as they are shown.
        columns: where they stand in the section.
        scores: for each of them what it is of the scores; None is H.
        belongs: which records of a row count for them.
        test_set: the test set of a record that counts for them. A number is the mean over these.
        halves: the halves of each test set that are scored apart.
    """

    names: tuple[str, ...]
    columns: tuple[int, ...]
    scores: tuple[int | None, ...]
    belongs: Callable[[Record], bool]
    test_set: Callable[[Record], Any]
    halves: tuple[str, ...] = ()

    def answers(self, records: Sequence[Record]) -> Answers | None:
        """None where something is missing."""
        found = Answers({}, {}, {}, {})
        for test, of_test in grouped(filter(self.belongs, records), self.test_set).items():
            for half in self.halves or ("",):
                of_half = sorted((r for r in of_test if not half or r.data.subset == half), key=_seed)
                same = {(r.data.hash, r.data.images, len(r.data.skipped)) for r in of_half}
                if len(same) != 1 or not all(r.correct for r in of_half):
                    return None
                seeds = tuple(r.seed for r in of_half)
                if seeds != found.seeds.setdefault(str(test), seeds):
                    return None
                found.images[test, half] = of_half[0].data.hash
                answers_SN = np.stack([unpacked(r.correct, r.data.images) for r in of_half])
                found.correct.setdefault(str(test), []).append(answers_SN)
                numbers = [int(number) for number in of_half[0].groups.split()] or range(answers_SN.shape[1])
                found.groups.setdefault(str(test), []).append(np.array(numbers))
        return found if found.images else None


class Drawn:
    """The rows of a section in the columns of one piece, resampled once; those with the same test images by the same
    draws."""

    def __init__(self, section: Section, piece: Piece) -> None:
        self.piece = piece
        of_row = {row.label: piece.answers(row.records) for row in section.rows}
        self.answers = {label: answers for label, answers in of_row.items() if answers}
        self._draws: dict[frozenset[tuple[tuple[Any, str], str]], Bootstrap] = {}
        self._scores: dict[tuple[str, tuple[tuple[int | None, ...], ...]], Scores] = {}

    def cells(self, row: Row, reference: Row) -> list[Cell]:
        """The columns of a row minus those of another, or why not."""
        ours, theirs = self.answers.get(row.label), self.answers.get(reference.label)
        if ours and theirs and ours.images == theirs.images:
            pairs = _in_pairs(ours.seeds, theirs.seeds)
            mine, other = (self._of(of.label, seeds) for of, seeds in zip((row, reference), pairs, strict=True))
            found = (mine.minus(other, score) for score in self.piece.scores)
            return [_cell(difference, row.cells[self.piece.columns[0]].seeds) for difference in found]
        reasons = (row.cells[i].reason for i in self.piece.columns)
        reason = next((reason for reason in reasons if reason), _OTHER_IMAGES.format(reference.label))
        return [Cell(reason=reason)] * len(self.piece.columns)

    def _of(self, label: str, seeds: Seeds) -> Scores:
        key = label, tuple(seeds.values())
        if key not in self._scores:
            answers = self.answers[label]
            images = frozenset(answers.images.items())
            if images not in self._draws:
                self._draws[images] = Bootstrap(answers.groups)
            self._scores[key] = self._draws[images].scores(answers.of_seeds(seeds))
        return self._scores[key]


def _seed(record: Record) -> int:
    return -1 if record.seed is None else record.seed


def _in_pairs(ours: Seeds, theirs: Seeds) -> tuple[Seeds, Seeds]:
    """The seeds of each test set that both have: a seed fixes what is trained on. All of both, where there are none."""
    both = {test: tuple(seed for seed in seeds if seed in theirs[test]) for test, seeds in ours.items()}
    return {test: both[test] or ours[test] for test in ours}, {test: both[test] or theirs[test] for test in ours}


class Paired:
    """The rows of a section, resampled."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.drawn = [Drawn(section, piece) for piece in _pieces(section)]

    def mark_clear(self) -> None:
        """Lets the differences to the baseline say which changes of the section are clear."""
        if (baseline := self.section.baseline) is None:
            return
        for row in self.section.rows:
            for drawn in self.drawn:
                for i, difference in zip(drawn.piece.columns, drawn.cells(row, baseline), strict=True):
                    if row.cells[i].trend and difference.trend:
                        row.cells[i].trend, self.section.paired = difference.trend, True

    def against(self, name: str) -> Section | None:
        """Every other row minus the row ``name``; None if that is not there, or alone.

        Only references are compared with all rows, another method with its own variants: an ablation.
        """
        shown = [drawn for drawn in self.drawn if _sums_up(self.section, drawn.piece)]
        scored = [row for row in self.section.rows if any(row.label in drawn.answers for drawn in shown)]
        reference = next((row for row in scored if row.label == name), None)
        everyone = name in (*REFERENCES, *[_OF_TRANSFER] * self.section.transfer)
        others = [
            row for row in self.section.rows if row is not reference and (everyone or row.label.startswith(f"{name}["))
        ]
        if reference is None or not others:
            return None
        rows = [
            Row(row.label, [cell for drawn in shown for cell in drawn.cells(row, reference)], row.records)
            for row in others
        ]
        several = any(len(drawn.answers[name].seeds) > 1 for drawn in shown if name in drawn.answers)
        over = "data sets, " * several if not self.section.transfer else "domains or data sets, " * several
        columns = tuple(name for drawn in shown for name in drawn.piece.names)
        title = f"{self.section.title}: difference to {name}"
        return Section(title, f"95 % intervals over {over}seeds and test images", columns, rows)


def differences(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Marks the clear changes of all sections that can be resampled, and gives one section of differences for each
    reference, and for each method beside variants of it (`dra` beside `dra[l1=off]`).

    They are of the averages where there are several data sets, else of the one data set; of transfer they are in
    distribution and of the means over domains and over data sets. Intervals are over data sets or domains, seeds and
    test images (``evaluation.paired``). Two methods are compared on the seeds that both have. That domains show the
    same drawings is not taken into account.
    """
    pairs = [Paired(section) for section in sections]
    for paired in pairs:
        paired.mark_clear()
    found: list[Section] = []
    for kind in ("base-to-new", "few-shot", "transfer"):
        of_kind = [paired for paired in pairs if paired.drawn and _kind(paired.section) == kind]
        if kind != "transfer" and len(of_kind) > 1:  # the average stands behind the data sets
            of_kind = [paired for paired in of_kind[-1:] if paired.section.average]
        for paired in of_kind:
            names = dict.fromkeys((*REFERENCES, *(row.label for row in paired.section.rows)))
            found += [section for name in names if (section := paired.against(name))]
    return tuple(found)


def _kind(section: Section) -> str:
    return "base-to-new" if section.base_to_new else "few-shot" if section.shots else "transfer"


def _pieces(section: Section) -> list[Piece]:
    if section.base_to_new:
        return [Piece((*HALVES, "H"), (0, 1, 2), (0, 1, None), lambda r: True, lambda r: r.data.name, HALVES)]
    if section.shots or section.transfer:
        columns = enumerate(zip(section.columns, section.belongs, strict=True))
        return [Piece((name,), (i,), (0,), belongs, lambda r: r.data.test) for i, (name, belongs) in columns]
    return []


def _sums_up(section: Section, piece: Piece) -> bool:
    """In distribution, means, and what stands alone in its role; not each domain of several."""
    if not section.transfer:
        return True
    roles = {r.role for r in filter(piece.belongs, section.records)}
    return piece.names[0] in MEANS.values() or not any(MEANS.get(role) in section.columns for role in roles)


def _cell(difference: Difference, seeds: int) -> Cell:
    trend = "same" if not difference.sure else "up" if difference.mean > 0 else "down"
    return Cell(difference.mean, low=difference.low, high=difference.high, seeds=seeds, trend=trend)
