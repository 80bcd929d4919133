"""All cells of a table: the finished ones are kept, the others run, here or elsewhere; a failure stops no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.progress import Display, spell
from steadyclip.evaluation.records import Record
from steadyclip.experiments.cell import Bench, Outcome, attempt
from steadyclip.experiments.protocols import Cell

Launcher = Callable[[Sequence[Cell], Bench], Iterator[tuple[Cell, Outcome]]]
"""Does cells in any order, and yields each with its outcome as it ends."""

POLL_SECONDS = 2.0
"""Between two looks at cells that another grid is at."""


@dataclass(frozen=True)
class GridResult:
    """``records`` of the finished cells, in the order of the cells; ``failed``: cells with their error."""

    records: tuple[Record, ...]
    failed: tuple[tuple[Cell, str], ...]

    def check(self) -> None:
        """Raises SteadyClipError naming every failed cell."""
        if self.failed:
            listed = "; ".join(f"{cell.title}: {error}" for cell, error in self.failed)
            raise SteadyClipError(
                f"{len(self.failed)} cell{'s' if len(self.failed) > 1 else ''} failed; the same command again tries "
                f"only {'these' if len(self.failed) > 1 else 'this'}. {listed}"
            )


def one_by_one(cells: Sequence[Cell], bench: Bench) -> Iterator[tuple[Cell, Outcome]]:
    """The launcher that does the cells in this process, in their order."""
    for cell in cells:
        yield cell, attempt(cell, bench)


def run_grid(
    cells: Sequence[Cell],
    bench: Bench,
    launcher: Launcher = one_by_one,
    *,
    side_by_side: int = 1,
    progress: bool = True,
) -> GridResult:
    """Do all that is left of the cells.

    A cell that another grid on the same folder is at is waited for. A finished cell is not done again, unless what
    decides its result has changed; then it has another folder, and the old one stays.

    Args:
        cells: of one or several protocols (see ``merged``).
        bench: model, folder, settings.
        launcher: what does them.
        side_by_side: cells that the launcher does at once, for the guess at the time left.
        progress: say on standard error how far it is.

    Raises:
        Stopped: a signal came; all of it is saved, and the same call goes on from there.
    """
    done: dict[int, tuple[Record, ...]] = {}
    failed: dict[int, str] = {}
    for i, cell in enumerate(cells):
        if records := bench.stored(cell):
            done[i] = records
    number = {id(cell): i for i, cell in enumerate(cells)}
    left = [cell for i, cell in enumerate(cells) if i not in done]
    with GridProgress(cells, left, bench, side_by_side, progress) as shown:
        while left:
            busy: list[tuple[Cell, str]] = []
            for cell, outcome in launcher(left, bench):
                if outcome.owner:
                    busy.append((cell, outcome.owner))
                    continue
                if outcome.error is None:
                    done[number[id(cell)]] = outcome.records
                else:
                    failed[number[id(cell)]] = outcome.error
                shown.ended(cell, outcome)
            if len(busy) == len(left):
                shown.waiting(*busy[0])
                time.sleep(POLL_SECONDS)
            left = [cell for cell, _ in busy]
    records = tuple(record for i in sorted(done) for record in done[i])
    return GridResult(records, tuple((cells[i], failed[i]) for i in sorted(failed)))


class GridProgress(Display):
    """A line for each cell that ends, with the time left; where cells run side by side on a terminal, a bar too."""

    def __init__(
        self, cells: Sequence[Cell], left: Sequence[Cell], bench: Bench, side_by_side: int, enabled: bool
    ) -> None:
        """``left`` of the ``cells`` are to be done."""
        self.total, self.count, self.side_by_side = len(cells), len(cells) - len(left), max(1, side_by_side)
        # with one at a time the training shows a bar of its own
        super().__init__("cells", self.total, self.count, enabled=enabled, bar=side_by_side > 1)
        self.work = {id(cell): (cell.row.label, bench.work(cell)) for cell in left}
        self.rates: dict[str, list[float]] = {}  # row -> seconds for each unit of work
        self.waited: set[int] = set()
        if self.count:
            self.say(f"{self.count} of {self.total} cells are finished already and kept.")

    def ended(self, cell: Cell, outcome: Outcome) -> None:
        """``cell`` has ended."""
        self.count += 1
        label, work = self.work.pop(id(cell))
        if outcome.error is None:
            self.rates.setdefault(label, []).append(outcome.seconds / max(1, work))
        left = f"{spell(self.seconds_left())} left" if self.work and self.rates else ""
        ended = f"failed: {outcome.error}" if outcome.error else f"done in {spell(outcome.seconds)}"
        self.update(completed=self.count, note=left)
        self.say(f"[{self.count}/{self.total}] {cell.title}: {ended}{left and f', {left}'}")

    def waiting(self, cell: Cell, owner: str) -> None:
        """All that is left is being done by others, ``cell`` by ``owner``."""
        if id(cell) not in self.waited:
            self.waited.add(id(cell))
            self.say(f"waiting for {cell.title}: {owner} is at it")

    def seconds_left(self) -> float:
        """By the speed of each row so far; a row that has not run is taken to be as fast as the others on average."""
        rates = {row: sum(each) / len(each) for row, each in self.rates.items()}
        usual = sum(rates.values()) / len(rates)
        seconds = sum(rates.get(row, usual) * work for row, work in self.work.values())
        return seconds / min(self.side_by_side, max(1, len(self.work)))
