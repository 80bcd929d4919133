"""How far a training is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import Any

from steadyclip.core.progress import Display, spell

QUIET_SECONDS = 10.0
"""Least time between two plain lines."""


class TrainProgress(Display):
    """Shows step, loss, images/s and time left; a context manager."""

    def __init__(self, title: str, steps: int, start: int, enabled: bool = True) -> None:
        """``start`` steps of ``steps`` are already done."""
        super().__init__(title, steps, start, enabled=enabled)
        self.title, self.steps, self._said = title, steps, time.monotonic()

    def log(self, row: dict[str, Any]) -> None:
        """Show a row of the log."""
        note = f"loss {row['loss']:.4f}  {row['images_per_second']:.0f} images/s"
        self.update(note=note)
        due = time.monotonic() - self._said >= QUIET_SECONDS or row["step"] == self.steps
        if due and not self.bar:
            self._said = time.monotonic()
            self.say(f"{self.title}: step {row['step']}/{self.steps}  {note}  {spell(row['seconds_left'])} left")
