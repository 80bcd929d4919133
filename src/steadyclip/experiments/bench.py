"""A whole table: cells of a protocol, run as a grid, and what is printed and written of it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from steadyclip.core.errors import DataError, UsageError
from steadyclip.evaluation.records import Record
from steadyclip.experiments.cell import Bench
from steadyclip.experiments.grid import GridResult, Launcher, one_by_one, run_grid
from steadyclip.experiments.protocols import Cell, Protocol
from steadyclip.experiments.rows import Row
from steadyclip.experiments.settings import PUBLISHED
from steadyclip.training.config import TrainConfig


def run_bench(
    protocol: Protocol,
    rows: Sequence[Row],
    seeds: Sequence[int],
    *,
    model: str,
    out: Path,
    config: TrainConfig | None = None,
    root: Path | None = None,
    launcher: Launcher = one_by_one,
    side_by_side: int = 1,
    wise_alphas: Sequence[float] = (),
    log: Callable[[str], None] = print,
) -> GridResult:
    """Train and score every row by ``protocol`` for every seed; what is finished in ``out`` is kept.

    Args:
        protocol: which trainings and test sets.
        rows: in the order of the table.
        seeds: of samples and trainings.
        model: as for ``load``.
        out: folder of the grid.
        config: how to train; rows may change it.
        root: folder with the data sets of the catalog.
        launcher: what does the cells, ``side_by_side`` of them at once.
        wise_alphas: points between the pretrained weights (0) and the trained ones (1) that rows which train the
            model's own weights are scored at too.
        log: takes lines for people.

    Raises:
        UsageError: an alpha is no share, or no row trains the model's own weights.
        SteadyClipError: the model or a data set cannot be had, or ``out`` cannot be written to. (A cell that fails is
            in the result.)
    """
    from steadyclip.evaluation.wise import check_alpha
    from steadyclip.models import load

    for alpha in wise_alphas:
        check_alpha(alpha, "--wise-alphas")
    if wise_alphas and not any(row.method.own_weights for row in rows):
        raise UsageError("--wise-alphas needs a row that trains the model's own weights: full, flyp or arf.")
    bench = Bench(model, load(model).weights_hash, Path(out), config or TrainConfig(), root)
    cells = protocol.cells(rows, seeds, wise_alphas)
    for spec in dict.fromkeys(cell.sample.data for cell in cells):
        for line in bench.data(spec).summary():
            log(line)
    for line in settings_lines(rows, model):
        log(line)
    _need_folder(bench.out)
    for line in unreadable_lines(cells, bench):
        log(line)
    progress = bench.config.progress
    return run_grid(cells, bench, launcher, side_by_side=side_by_side, progress=progress)


def settings_lines(rows: Iterable[Row], model: str) -> list[str]:
    """Which rows are not trained by their published recipe, and which are beside such rows; nothing if all are."""
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.recipe is not None:
            groups.setdefault(row.settings, []).append(row.label)
    chosen = [name for name in groups if name != PUBLISHED.name]
    lines = [f"{', '.join(groups[name])}: recipes {name} (--recipes published for the papers')" for name in chosen]
    if chosen and PUBLISHED.name in groups:
        lines.append(f"{', '.join(groups[PUBLISHED.name])}: published recipes; none were chosen for {model}")
    return lines


def unreadable_lines(cells: Iterable[Cell], bench: Bench) -> list[str]:
    """A line on each record that stands where one of ``cells`` belongs and was written by another version, or is
    broken: it is scored again, from the training that is there. And one line on the cells of version 0.x."""
    old = {file.parts[-3] for file in bench.out.glob("*/records/*.json") if b'"schema": 1,' in file.read_bytes()[:40]}
    lines = []
    if old:
        lines.append(
            f"{bench.out} holds {len(old)} cells of version 0.x, such as {min(old)}: they are not used, and everything "
            "that is asked for is trained and scored anew. Remove them before `steadyclip report`."
        )
    for file in dict.fromkeys(bench.record_file(cell, test) for cell in cells for test in cell.tests):
        try:
            if file.exists():
                Record.read(file)
        except DataError as error:
            lines.append(f"scored again: {error}")
    return lines


def _need_folder(out: Path) -> None:
    """Raises UsageError where ``out`` is no folder that can be written to."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        what = "is a file" if out.is_file() else f"cannot be written to ({error.strerror or error})"
        raise UsageError(f"--out {out} {what}: name another folder.") from None
