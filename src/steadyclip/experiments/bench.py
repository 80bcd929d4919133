"""A whole table: all cells of a plan. Finished cells are kept, the others run; a failure stops no other cell."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.core.progress import Display, spell
from steadyclip.evaluation.records import Record
from steadyclip.experiments.cell import Bench
from steadyclip.experiments.launchers import Launcher, one_by_one
from steadyclip.experiments.protocols import Cell, Plan, cells, open_data
from steadyclip.experiments.rows import Row
from steadyclip.experiments.settings import PUBLISHED
from steadyclip.training.config import TrainConfig

POLL_SECONDS = 2.0
"""Between two looks at cells that another grid is working on."""


@dataclass(frozen=True)
class GridResult:
    """``records`` of the finished cells, in the order of the cells; ``failed``: cells with their error."""

    records: tuple[Record, ...]
    failed: tuple[tuple[Cell, str], ...]

    def check(self) -> None:
        """Raises SteadyClipError naming every failed cell."""
        if self.failed:
            listed = "; ".join(f"{cell.title}: {error}" for cell, error in self.failed)
            many = len(self.failed) > 1
            raise SteadyClipError(
                f"{len(self.failed)} cell{'s' if many else ''} failed; the same command again tries only "
                f"{'these' if many else 'this'}. {listed}"
            )


def run_bench(
    plan: Plan,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    model: str,
    out: Path,
    config: TrainConfig | None = None,
    root: Path | None = None,
    launcher: Launcher = one_by_one,
    wise_alphas: Sequence[float] = (),
    log: Callable[[str], None] = print,
) -> GridResult:
    """Train and score every row by ``plan`` for every seed; what is finished in ``out`` is kept.

    A finished cell is done again only if what decides its result has changed; then it has another folder, and the old
    one stays. A cell that another grid on the same folder is working on is waited for.

    Args:
        plan: which trainings and test sets.
        rows: in the order of the table.
        seeds: of samples and trainings.
        model: as for ``load``.
        out: folder of the grid.
        config: how to train; rows may change it.
        root: folder with the data sets of the catalog.
        launcher: runs the cells.
        wise_alphas: points between the pretrained weights (0) and the trained ones (1) that rows which train the
            model's own weights are scored at too.
        log: takes lines for people.

    Raises:
        UsageError: an alpha is no share, no row trains the model's own weights, or ``out`` cannot be written to.
        SteadyClipError: the model or a data set cannot be opened. (A cell that fails is in the result.)
        Stopped: a signal came; everything is saved, and the same call continues from there.
    """
    from steadyclip.evaluation.wise import check_alpha
    from steadyclip.models import load

    for alpha in wise_alphas:
        check_alpha(alpha, "--wise-alphas")
    if wise_alphas and not any(row.method.averages for row in rows):
        raise UsageError("--wise-alphas needs a row that trains the model's own weights: full, flyp, arf or ft.")
    bench = Bench(model, load(model).weights_hash, Path(out), config or TrainConfig(), root)
    every = cells(plan, rows, seeds, wise_alphas)
    _refuse_same_names(every, root)
    for source in dict.fromkeys(cell.sample.data for cell in every):
        for line in open_data(source, root).summary():
            log(line)
    for line in settings_lines(rows, model):
        log(line)
    _need_folder(bench.out)
    old = {file.parts[-3] for file in bench.out.glob("*/records/*.json") if b'"schema": 1,' in file.read_bytes()[:40]}
    if old:
        log(
            f"{bench.out} holds {len(old)} cells of version 0.x, such as {min(old)}: they are not used, and everything "
            "that is asked for is trained and scored anew. Remove them before `steadyclip report`."
        )
    return _run(every, bench, launcher, log)


def _run(cells: Sequence[Cell], bench: Bench, launcher: Launcher, log: Callable[[str], None]) -> GridResult:
    records, failed, work = {}, {}, {}
    for i, cell in enumerate(cells):
        stored = bench.stored(cell, log)
        if len(stored) == len(cell.tests):
            records[i] = tuple(stored.values())
        else:
            work[i] = bench.work(cell)
    place = {id(cell): i for i, cell in enumerate(cells)}
    start, total, finished = time.monotonic(), sum(work.values()), len(records)
    # one at a time, each training has a bar of its own
    bar, waited = launcher is not one_by_one, set()
    with Display("cells", len(cells), finished, enabled=bench.config.progress, bar=bar) as shown:
        if finished:
            shown.say(f"{finished} of {len(cells)} cells are finished already and kept.")
        while work:
            busy: list[tuple[Cell, str]] = []
            for cell, outcome in launcher([cells[i] for i in work], bench):
                i = place[id(cell)]
                if outcome.owner:
                    busy.append((cell, outcome.owner))
                    continue
                del work[i]
                if outcome.error is None:
                    records[i] = outcome.records
                else:
                    failed[i] = outcome.error
                done, rest = len(cells) - len(work), sum(work.values())
                seconds = (time.monotonic() - start) * rest / max(1, total - rest)
                left = f"{spell(seconds)} left" if work else ""
                shown.update(completed=done, note=left)
                ended = f"failed: {outcome.error}" if outcome.error else f"done in {spell(outcome.seconds)}"
                shown.say(f"[{done}/{len(cells)}] {cell.title}: {ended}{left and f', {left}'}")
            if busy:
                cell, owner = busy[0]
                if id(cell) not in waited:
                    shown.say(f"waiting for {cell.title}: {owner} is working on it")
                    waited.add(id(cell))
                time.sleep(POLL_SECONDS)
    kept = tuple(record for i in sorted(records) for record in records[i])
    return GridResult(kept, tuple((cells[i], failed[i]) for i in sorted(failed)))


def settings_lines(rows: Iterable[Row], model: str) -> list[str]:
    """Which rows are not trained by their published recipe, and which are beside such rows; nothing if all are."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.recipe is not None:
            groups.setdefault(row.settings, []).append(row.label)
    published = groups.pop(PUBLISHED.name, [])
    lines = [f"{', '.join(of)}: recipes {name} (--recipes published for the papers')" for name, of in groups.items()]
    if lines and published:
        lines.append(f"{', '.join(published)}: published recipes; none were chosen for {model}")
    return lines


def _refuse_same_names(cells: Iterable[Cell], root: Path | None) -> None:
    """Raises UsageError where two data sets have one name: a table could not tell them apart."""
    places: dict[str, str] = {}
    for source in dict.fromkeys(part.data for cell in cells for part in (cell.sample, *cell.tests)):
        name = open_data(source, root).name
        if places.setdefault(name, source.name) != source.name:
            raise UsageError(f"{places[name]} and {source.name} are both named {name!r}: rename one of them.")


def _need_folder(out: Path) -> None:
    """Raises UsageError where ``out`` is no folder that can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        what = "is a file" if out.is_file() else f"cannot be written to ({error.strerror or error})"
        raise UsageError(f"--out {out} {what}: name another folder.") from None
