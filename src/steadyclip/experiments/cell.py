"""One cell of a grid: train once, score on every test set, leave one record for each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.core.files import owning, slug, write_atomic
from steadyclip.core.precision import best_device, best_precision
from steadyclip.data.task import read_split, seen_by
from steadyclip.evaluation.records import MethodInfo, ModelInfo, Record, TaskInfo, record_name, scored_among
from steadyclip.experiments.protocols import Cell, Sample, Source, Target, open_data
from steadyclip.training.config import TrainConfig
from steadyclip.training.run import Untrained, describe, digest

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its ``records``, or one line of ``error``, or the ``owner`` that is working on it elsewhere."""

    records: tuple[Record, ...] = ()
    error: str | None = None
    owner: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Bench:
    """What all cells of a grid share, and where they are on disk. Small and picklable: worker processes get it.

    Attributes:
        model: as for ``load``.
        weights_hash: of the model.
        out: folder of the grid.
        config: how to train; a row may change it.
        root: folder with the data sets of the catalog.
    """

    model: str
    weights_hash: str
    out: Path
    config: TrainConfig
    root: Path | None = None

    def config_of(self, cell: Cell) -> TrainConfig:
        """How the cell is trained."""
        changes: dict[str, Any] = {**cell.row.config, "seed": cell.seed or 1, "feature_folder": self.out / "features"}
        config = dataclasses.replace(self.config, **changes)
        return dataclasses.replace(config, precision=best_precision(config.precision, best_device(config.device)))

    def folder(self, cell: Cell) -> Path:
        """The cell's own. Its name ends in a hash of the facts that decide the result, so that other settings, another
        model or other training images, even under the same names, have another folder."""
        row, config, model = cell.row, self.config_of(cell), ModelInfo(self.model, "", self.weights_hash)
        parts = [row.slug, slug(open_data(cell.sample.data, self.root).name)]
        if cell.seed is None:
            what = Untrained(model, MethodInfo.of(row.method), config.precision)
        else:
            parts += [
                cell.sample.subset,
                f"{cell.sample.shots}shot" if cell.sample.shots else "all",
                f"seed{cell.seed}",
            ]
            what = describe(model, row.method, _task_info(cell.sample, cell.seed, self.root), row.recipe, config)
        return self.out / "-".join([*parts, digest(what)])

    def record_file(self, cell: Cell, test: Target) -> Path:
        """Where the record of ``test`` belongs."""
        images, content = _test_set(test, self.root), _content(test, self.root)
        place, precision = (images.name, test.subset, test.domain), self.config_of(cell).precision
        name = record_name(place, content, images.templates, precision, test.wise_alpha, images.templates)
        return self.folder(cell) / "records" / name

    def stored(self, cell: Cell, log: Callable[[str], None] = lambda line: None) -> dict[Target, Record]:
        """The records that are there, less those of another version, broken ones and copies of other cells', which
        ``log`` is told of."""
        found = {}
        for test in cell.tests:
            file = self.record_file(cell, test)
            if not file.exists():
                continue
            try:
                record = Record.read(file)
                if not self._measured(record, cell, test):
                    raise DataError(f"{file} holds what was measured elsewhere.")
                found[test] = record
            except DataError as error:
                log(f"scored again: {error}")
        return found

    def _measured(self, record: Record, cell: Cell, test: Target) -> bool:
        """It is of this cell and these test images."""
        images, alpha = _test_set(test, self.root), test.wise_alpha
        of_cell = self.folder(cell).name.endswith(digest(record))
        how = record.precision == self.config_of(cell).precision and record.wise_alpha == alpha
        what = record.data.hash == _content(test, self.root) and record.data.templates == tuple(images.templates)
        return of_cell and how and what

    def work(self, cell: Cell) -> int:
        """Images that the cell encodes, to estimate the time left."""
        recipe, images = cell.row.recipe, sum(len(_test_set(test, self.root)) for test in cell.tests)
        if recipe and cell.seed is not None:  # a step costs about three forward passes
            task = _task(cell.sample, cell.seed, self.root)
            images += 3 * recipe.batch_size * recipe.total_steps(len(task.train), len(task.classes))
        return images


def attempt(cell: Cell, bench: Bench) -> Outcome:
    """Do what is left of the cell, unless another process is working on it.

    A failure is an outcome; the traceback of a bug is written to ``error.txt`` in the cell's folder.

    Raises:
        Stopped: a signal came, after everything was saved.
    """
    from steadyclip.training import Stopped

    start, trace = time.monotonic(), bench.out / "error.txt"
    try:
        folder = bench.folder(cell)
        trace = folder / "error.txt"
        with owning(bench.out / "locks" / f"{folder.name}.lock") as owner:
            if owner:
                return Outcome(owner=owner)
            records = _run(cell, bench)
            with contextlib.suppress(OSError):
                trace.unlink(missing_ok=True)
        return Outcome(records, seconds=time.monotonic() - start)
    except Stopped:
        raise
    except SteadyClipError as error:
        return Outcome(error=str(error))
    except Exception as error:
        with contextlib.suppress(SteadyClipError):
            write_atomic(trace, traceback.format_exc().encode())
        first = (str(error).splitlines() or [""])[0]
        return Outcome(error=f"{type(error).__name__}: {first} (a bug; the traceback is in {trace})")


def _run(cell: Cell, bench: Bench) -> tuple[Record, ...]:
    from steadyclip.evaluation import averaged, evaluate
    from steadyclip.evaluation.wise import at_alpha
    from steadyclip.models import load
    from steadyclip.training import fit

    records = bench.stored(cell)
    if len(records) == len(cell.tests):
        return tuple(records.values())
    row, sample, config = cell.row, cell.sample, bench.config_of(cell)
    model, data, run, trained = load(bench.model), open_data(sample.data, bench.root), None, frozenset[str]()
    of_sample: list[str] = []
    if cell.seed is None:
        model.to(best_device(config.device))
    else:
        task = data.task(sample.shots, cell.seed, sample.subset)
        config = dataclasses.replace(config, out=bench.folder(cell))
        of_sample = [f"{note}." for note in task.notes if note not in data.notes]
        run = fit(model, row.method, task, recipe=row.recipe, config=config).run
        trained = seen_by(read_split(bench.folder(cell) / "split.json"))
    for test in cell.tests:
        if test in records:
            continue
        images, alpha = _test_set(test, bench.root), test.wise_alpha
        notes = [*of_sample, scored_among(len(images.classes), len(data.classes)) if test.role == "ood" else ""]
        # They stay, as in the field: all methods of a table are scored on the same images.
        if twice := len(images) - len(images.unlike(trained)):
            notes.append(f"{twice} of {len(images)} test images are also trained or validated on.")
        note = " ".join(filter(None, notes))
        as_trained = records.get(dataclasses.replace(test, wise_alpha=None))
        if alpha == 1 and as_trained:  # the same weights
            records[test] = at_alpha(as_trained, alpha)
        else:
            with contextlib.nullcontext() if alpha is None else averaged(model, alpha):
                record = evaluate(
                    model, row.method, images, subset=test.subset, run=run, workers=config.workers,
                    cache=config.feature_folder, drift=row.recipe is not None, note=note, precision=config.precision,
                    whole=_whole(test.data, bench.root),
                )  # fmt: skip
            named = replace(record.method, label=row.label)
            record = replace(record, method=named, settings=row.settings, role=test.role)
            records[test] = record if alpha is None else at_alpha(record, alpha)
        records[test].write(bench.record_file(cell, test))
    return tuple(records[test] for test in cell.tests)


@functools.lru_cache(maxsize=256)
def _task(sample: Sample, seed: int, root: Path | None) -> ImageTask:
    return open_data(sample.data, root).task(sample.shots, seed, sample.subset, verify=False)


@functools.lru_cache(maxsize=256)
def _task_info(sample: Sample, seed: int, root: Path | None) -> TaskInfo:
    return TaskInfo.of(_task(sample, seed, root))


@functools.lru_cache(maxsize=256)
def _test_set(test: Target, root: Path | None) -> ImageSet:
    return open_data(test.data, root).test_set(test.subset, test.domain)


@functools.lru_cache(maxsize=256)
def _whole(source: Source, root: Path | None) -> str:
    return open_data(source, root).splits["test"].content


@functools.lru_cache(maxsize=256)
def _content(test: Target, root: Path | None) -> str:
    return _test_set(test, root).content
