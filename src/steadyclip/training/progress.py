"""How far a training is: a bar on a terminal, a line now and then elsewhere. Everything goes to standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

QUIET_SECONDS = 10.0
"""Least time between two plain lines."""


class TrainProgress:
    """Shows step, loss, images/s and time left; a context manager."""

    def __init__(self, title: str, steps: int, start: int, enabled: bool = True) -> None:
        """``start`` steps of ``steps`` are already done."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.title, self.steps, self.enabled = title, steps, enabled
        self.console = Console(stderr=True)
        self.bar = None
        self._said = time.monotonic()
        if enabled and self.console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.row = self.bar.add_task(title, total=steps, completed=start, note="")

    def __enter__(self) -> TrainProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, done: int) -> None:
        """``done`` steps are done."""
        if self.bar:
            self.bar.update(self.row, completed=done)

    def log(self, row: dict[str, Any]) -> None:
        """Show a row of the log."""
        note = f"loss {row['loss']:.4f}  {row['images_per_second']:.0f} images/s"
        if self.bar:
            self.bar.update(self.row, note=note)
        elif self.enabled and (time.monotonic() - self._said >= QUIET_SECONDS or row["step"] == self.steps):
            self._said = time.monotonic()
            self.say(f"{self.title}: step {row['step']}/{self.steps}  {note}  {_spell(row['seconds_left'])} left")

    def say(self, line: str) -> None:
        """One plain line."""
        if self.enabled:
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)


def _spell(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
