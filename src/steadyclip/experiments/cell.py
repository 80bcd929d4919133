"""One cell of a grid: train once, score on every test set, leave one record for each."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.core.files import write_atomic
from steadyclip.core.locks import owning
from steadyclip.evaluation.records import Record, scored_among
from steadyclip.evaluation.run import MethodInfo, ModelInfo, TaskInfo
from steadyclip.experiments.protocols import Cell, Sample, Source, Target
from steadyclip.experiments.rows import slug
from steadyclip.training.config import TrainConfig
from steadyclip.training.run import Untrained, describe, digest

if TYPE_CHECKING:
    from steadyclip.data import ImageData, ImageSet, ImageTask


@dataclass(frozen=True)
class Outcome:
    """How a cell ended: its ``records``, or one line of ``error``, or the ``owner`` that is at it elsewhere."""

    records: tuple[Record, ...] = ()
    error: str | None = None
    owner: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Bench:
    """What all cells of a grid share, and where they are on disk. Small and picklable: other processes work with it.

    Attributes:
        model: as for ``load``.
        weights_hash: of the model.
        out: folder of the grid: a folder for each cell, ``features`` of the frozen model, ``locks``.
        config: how to train; a row may change it.
        root: folder with the data sets, where ``data`` names one of the catalog.
    """

    model: str
    weights_hash: str
    out: Path
    config: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    root: Path | None = None

    def data(self, source: Source) -> ImageData:
        """The data set, listed once for each process."""
        return _open(source, self.root)

    def task(self, cell: Cell) -> ImageTask:
        """What the cell trains on, its images not yet opened."""
        return _task(cell.sample, cell.seed or 1, self.root)

    def test_set(self, cell: Cell, test: Target) -> ImageSet:
        """The images of ``test``, without any that the cell trains on."""
        return _test_set(test, cell.sample, cell.seed, self.root)

    def config_of(self, cell: Cell) -> TrainConfig:
        """How the cell is trained."""
        return dataclasses.replace(self._settings(cell), out=self.folder(cell), feature_folder=self.features)

    @property
    def features(self) -> Path:
        """Where features of the frozen model are kept."""
        return self.out / "features"

    def folder(self, cell: Cell) -> Path:
        """The cell's own: its name ends in a hash of its identity, so that other settings, another model or other
        training images, under the same names too, have another folder."""
        data = self.data(cell.sample.data).name
        parts = [cell.row.slug, slug(data)]
        if cell.seed is not None:
            shots = "all" if cell.sample.shots is None else f"{cell.sample.shots}shot"
            parts += [cell.sample.subset, shots, f"seed{cell.seed}"]
        return self.out / "-".join([*parts, self._digest(cell)])

    def record_file(self, cell: Cell, test: Target) -> Path:
        """Where the record of ``test`` belongs."""
        parts = [slug(self.data(test.data).name), test.subset, *([slug(test.domain)] if test.domain else [])]
        if test.data.templates is not None:
            parts.append(hashlib.sha256(json.dumps(test.data.templates).encode()).hexdigest()[:6])
        if test.wise_alpha is not None:
            parts.append(f"alpha{test.wise_alpha:g}")
        return self.folder(cell) / "records" / f"{'-'.join(parts)}.json"

    def stored(self, cell: Cell) -> tuple[Record, ...] | None:
        """The records of a finished cell, or None where there is something left to do."""
        found = [self._stored(cell, test) for test in cell.tests]
        records = tuple(record for record in found if record is not None)
        return records if len(records) == len(found) else None

    def missing(self, cell: Cell) -> list[Target]:
        """The tests without a record."""
        return [test for test in cell.tests if self._stored(cell, test) is None]

    def work(self, cell: Cell) -> int:
        """Images that the cell encodes, for guesses at the time left."""
        recipe, images = cell.row.recipe, sum(len(self.test_set(cell, test)) for test in cell.tests)
        if recipe:  # a step costs about three passes forward
            task = self.task(cell)
            images += 3 * recipe.batch_size * recipe.total_steps(len(task.train), len(task.classes))
        return images

    def _stored(self, cell: Cell, test: Target) -> Record | None:
        """The record, unless it is missing, broken, or of other images, names, prompts or arithmetic."""
        with contextlib.suppress(DataError):
            record, images = Record.read(self.record_file(cell, test)), self.test_set(cell, test)
            same = record.data.hash == _content_of_test_set(test, cell.sample, cell.seed, self.root)
            same &= record.precision == self._settings(cell).precision
            if same and record.data.templates == images.templates:
                return record
        return None

    def _settings(self, cell: Cell) -> TrainConfig:
        changes: dict[str, Any] = {**cell.row.config, "seed": cell.seed or 1}
        return dataclasses.replace(self.config, **changes)

    def _digest(self, cell: Cell) -> str:
        row, model, config = cell.row, ModelInfo(self.model, "", self.weights_hash), self._settings(cell)
        if cell.seed is None:
            return digest(Untrained(model, MethodInfo.of(row.method), config.precision))
        return digest(describe(model, row.method, _task_info(cell.sample, cell.seed, self.root), row.recipe, config))


def attempt(cell: Cell, bench: Bench) -> Outcome:
    """Do what is left of the cell, unless another process is at it.

    A failure is an outcome; the traceback of one that no user can mend stands in ``error.txt`` of the cell's folder.

    Raises:
        Stopped: a signal came, after everything was saved.
    """
    from steadyclip.training import Stopped

    start, folder = time.monotonic(), bench.out
    try:
        folder = bench.folder(cell)
        with owning(bench.out / "locks" / f"{folder.name}.lock") as owner:
            if owner:
                return Outcome(owner=owner)
            try:
                records = bench.stored(cell) or _run(cell, bench)
            except (Stopped, SteadyClipError):
                raise
            except Exception:
                with contextlib.suppress(SteadyClipError):
                    write_atomic(folder / "error.txt", traceback.format_exc().encode())
                raise
            with contextlib.suppress(OSError):
                (folder / "error.txt").unlink(missing_ok=True)
            return Outcome(records, seconds=time.monotonic() - start)
    except Stopped:
        raise
    except SteadyClipError as error:
        return Outcome(error=str(error), seconds=time.monotonic() - start)
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        line = f"{type(error).__name__}: {first} (a bug; the traceback is in {folder / 'error.txt'})"
        return Outcome(error=line, seconds=time.monotonic() - start)


def _run(cell: Cell, bench: Bench) -> tuple[Record, ...]:
    from steadyclip.evaluation import averaged, evaluate
    from steadyclip.evaluation.wise import at_alpha
    from steadyclip.models import load
    from steadyclip.training import fit

    row, run = cell.row, None
    model = load(bench.model)
    config = bench.config_of(cell)
    if cell.seed is not None:
        task = bench.data(cell.sample.data).task(shots=cell.sample.shots, seed=cell.seed, subset=cell.sample.subset)
        run = fit(model, row.method, task, recipe=row.recipe, config=config).run
    elif config.device == "auto":
        model.to(_accelerator())
    for test in bench.missing(cell):
        images = bench.test_set(cell, test)
        classes = len(bench.data(cell.sample.data).classes)
        note = scored_among(len(images.classes), classes) if test.role == "ood" else ""
        alpha = test.wise_alpha
        with contextlib.nullcontext() if alpha is None else averaged(model, alpha):
            record = evaluate(
                model, row.method, images, subset=test.subset, run=run, workers=config.workers, cache=bench.features,
                drift=row.recipe is not None, note=note, precision=config.precision,
            )  # fmt: skip
        record = replace(record, method=replace(record.method, label=row.label), settings=row.settings, role=test.role)
        if alpha is not None:
            record = at_alpha(record, alpha)
        record.write(bench.record_file(cell, test))
    records = bench.stored(cell)
    if records is None:
        raise SteadyClipError(f"{bench.folder(cell)} was changed while it was written: run the same command again.")
    return records


def _accelerator() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@functools.lru_cache(maxsize=64)
def _open(source: Source, root: Path | None) -> ImageData:
    from steadyclip.data import load_data

    return load_data(source.name, templates=source.templates, root=root, sources=source.sources)


@functools.lru_cache(maxsize=256)
def _task(sample: Sample, seed: int, root: Path | None) -> ImageTask:
    data = _open(sample.data, root)
    return data.task(shots=sample.shots, seed=seed, subset=sample.subset, verify=False)


@functools.lru_cache(maxsize=256)
def _task_info(sample: Sample, seed: int, root: Path | None) -> TaskInfo:
    return TaskInfo.of(_task(sample, seed, root))


@functools.lru_cache(maxsize=256)
def _test_set(test: Target, sample: Sample, seed: int | None, root: Path | None) -> ImageSet:
    seen: set[str] = set()
    if seed is not None and test.data == sample.data:
        task = _task(sample, seed, root)
        seen = {*task.train.keys, *task.val.keys}
    return _open(test.data, root).test_set(test.subset, test.domain, exclude=seen)


@functools.lru_cache(maxsize=256)
def _content_of_test_set(test: Target, sample: Sample, seed: int | None, root: Path | None) -> str:
    return _test_set(test, sample, seed, root).content
