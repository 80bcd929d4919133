"""How far a long piece of work is: a bar on a terminal, lines elsewhere. Everything goes to standard error."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from steadyclip.core.terminal import console, visible
from steadyclip.core.words import counted

if TYPE_CHECKING:
    from typing_extensions import Self

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all."""


class Display:
    """A context manager with a bar where standard error is a terminal; ``bar`` is None elsewhere."""

    def __init__(self, title: str, total: int | None, done: int = 0, *, enabled: bool = True, bar: bool = True) -> None:
        """``enabled`` off shows nothing at all, ``bar`` off lines only."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.enabled, self.console, self.bar = enabled, console(stderr=True), None
        if enabled and bar and self.console.is_terminal:
            name, note = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[note]}", markup=False)
            columns = (name, BarColumn(), MofNCompleteColumn(), note, TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=total is None)
            self.task = self.bar.add_task(visible(title), total=total, completed=done, note="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def update(self, **fields: Any) -> None:
        """Change what the bar shows: ``completed``, ``total``, ``note``."""
        if self.bar:
            shown: dict[str, Any] = {
                name: visible(value) if isinstance(value, str) else value for name, value in fields.items()
            }
            self.bar.update(self.task, **shown)

    def say(self, line: str) -> None:
        """One plain line."""
        if self.enabled:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yields a callback ``(done, total)``; where there is no bar, one line at the end says how many images it were, if
    any."""
    start, last = time.perf_counter(), 0
    with Display(title, None) as shown:

        def advance(done: int, total: int) -> None:
            nonlocal last
            last = done
            shown.update(completed=done, total=total)

        yield advance
    if not shown.bar and last:
        shown.say(f"{title}: {counted(last, 'image')} in {time.perf_counter() - start:.1f} s")


@functools.cache  # once is enough
def warn(line: str) -> None:
    """One line on standard error, of what goes on nevertheless."""
    print(f"warning: {line}.", file=sys.stderr)


def spell(seconds: float) -> str:
    """``4 s``, ``3:07`` or ``1:03:07``."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"


def roughly(seconds: float) -> str:
    """``40 s``, ``7 min`` or ``1 h 20 min``: an estimate, in which nobody takes minutes for hours."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 60 else f"{max(1, round(seconds))} s"
