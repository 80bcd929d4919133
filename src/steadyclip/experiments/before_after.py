"""Score a run and, on the same images, the frozen model that it was made from: what a verdict is made of."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec.structs import replace

from steadyclip.core.errors import DataError
from steadyclip.data import catalog
from steadyclip.data.sampling import Subset
from steadyclip.evaluation.answers import Answers
from steadyclip.evaluation.records import Record, Run
from steadyclip.evaluation.test_sets import ClassSet, as_before, prompts_for, tests_of, what_was_scored

if TYPE_CHECKING:
    from steadyclip.data import ImageData, ImageSet
    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder

FROZEN = "frozen"
"""Folder in ``records/`` with the records of the frozen model on the same images."""


class ToScore(NamedTuple):
    """Test images of one data set: those of ``classes``, and what they are to the run (see ``Record.role``)."""

    data: ImageData
    classes: ClassSet
    role: str
    domain: str | None = None


def to_score(
    data: ImageData,
    run: Run | None,
    rest: Sequence[ImageData] = (),
    subset: Subset | None = None,
    domain: str | None = None,
) -> list[ToScore]:
    """What to score: the classes of ``data`` as ``tests_of`` cuts them, then all classes of each of ``rest``.

    Raises:
        DataError: as ``tests_of``.
    """
    trained = run.task if run else None
    found = [ToScore(data, classes, "id" if rest else "", domain) for classes in tests_of(data, trained, subset)]
    for other in rest:
        shift = trained and catalog.is_shift(other.name, other.classes, trained.name, trained.classes)
        (classes,) = tests_of(other, trained, "all")
        found.append(ToScore(other, classes, "ood" if shift else "transfer"))
    return found


@dataclass(frozen=True)
class BeforeAfter:
    """Scores what ``method`` made of ``model``, and the frozen model, and writes both beside each other.

    Attributes:
        model: with the method on it, trained (``load_run``), or as it is.
        run: None where nothing was trained; then there is nothing before it to score.
        folder: holds ``records/``; those of the frozen model are in ``records/frozen/``. The answers to single images
            are in a parquet file of the same name.
        seen: digests of images that the run has seen; they are left out.
        alphas: shares of the trained weights to score instead of the run as it is.
        templates: prompts that the user asked for, for what was trained on; by default those of the run, or of the data
            (``prompts_for``).
        options: further arguments of ``evaluate``.
        say: takes lines for people.
    """

    model: DualEncoder
    method: Method
    run: Run | None
    folder: Path
    seen: Collection[str] = frozenset()
    alphas: tuple[float, ...] | None = None
    templates: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    say: Callable[[str], None] = print

    def score(self, tests: Sequence[ToScore]) -> list[Record]:
        """The records of all tests.

        Raises:
            DataError: no test image is left, or too few can be read.
        """
        with tempfile.TemporaryDirectory() as cache:  # features of the frozen model serve its record and the drift
            return [record for test in tests for record in self._score(test, Path(cache))]

    def _score(self, test: ToScore, cache: Path) -> Iterator[Record]:
        data, (subset, classes, note) = test.data, test.classes
        found = data.test_set(domain=test.domain, classes=classes)
        images = found.unlike(self.seen)
        if not len(images):
            raise DataError(
                f"all {len(found)} test images of {data.name} were trained or validated on by {self.folder}."
            )
        templates = self.templates if test.role in ("", "id") else ()
        kept: list[Answers] = []
        options: dict[str, Any] = {
            **self.options, "subset": subset, "note": note, "seen": len(found) - len(images),
            "whole": data.splits["test"].content, "keep": kept.append,
            "templates": templates or prompts_for(data, self.run.task if self.run else None),
        }  # fmt: skip
        of_run = self._after(images, cache, options)  # first, as it may refuse the options
        answers = iter(kept)
        for record in of_run:
            record = as_before(replace(record, role=test.role), self.folder / "records" / record.file_name)
            file = self._write(record, self.folder / "records", next(answers) if record.metrics else None)
            self.say(f"record: {file}")
            yield record
        kept.clear()
        for record in self._before(images, cache, options):
            record = replace(record, role=test.role)
            self._write(record, self.folder / "records" / FROZEN, kept[0])
            yield record
        for line in what_was_scored(of_run[-1], data, classes):
            self.say(line)

    def _before(self, images: ImageSet, cache: Path, options: dict[str, Any]) -> list[Record]:
        """The frozen model, which a trained one still has in it."""
        from steadyclip.evaluation import evaluate
        from steadyclip.methods import get_method

        if not self.method.learns:
            return []
        return [evaluate(self.model, get_method("zero-shot"), images, cache=cache, **options)]

    def _after(self, images: ImageSet, cache: Path, options: dict[str, Any]) -> list[Record]:
        from steadyclip.evaluation import evaluate, evaluate_averaged

        if self.alphas is not None:
            return evaluate_averaged(self.model, self.method, images, self.alphas, run=self.run, cache=cache, **options)
        drift = self.method.recipe is not None
        return [evaluate(self.model, self.method, images, run=self.run, cache=cache, drift=drift, **options)]

    @staticmethod
    def _write(record: Record, folder: Path, answers: Answers | None) -> Path:
        file = record.write(folder / record.file_name)
        if answers:
            answers.write(file.with_suffix(".parquet"))
        return file
