"""What a training reports while it runs, and the signals that ask it to stop."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from steadyclip.core.progress import Display, spell

QUIET_SECONDS = 10.0
"""Least time between two plain lines of progress."""


class Losses:
    """Collects each step's terms and averages them over the steps between two log lines.

    Losses stay on the device until they are read, because reading one makes the CPU wait.

    Attributes:
        rows: the log lines so far, ``{"step", "loss", "terms": {name: mean}, ...}``.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor], error: Callable[[int, str], Exception]) -> None:
        """``reduce`` sums a tensor over all processes; ``error(step, message)`` is raised if a loss is not finite."""
        self.reduce, self.error = reduce, error
        self.rows: list[dict[str, Any]] = []
        self._names: list[str] = []
        self._waiting: list[tuple[int, Tensor]] = []
        self._sums: list[float] = []
        self._count = 0

    def add(self, step: int, terms: dict[str, Tensor]) -> None:
        """The terms of step ``step``, averaged over this process' images and weighted by their share of the batch."""
        if self._names and self._names != list(terms):
            raise ValueError(
                f"the loss has other terms at step {step} ({', '.join(terms)}) than before ({', '.join(self._names)})"
            )
        self._names = list(terms)
        self._waiting.append((step, torch.stack([term.detach().float() for term in terms.values()])))

    def look(self) -> None:
        """Read what was added since the last look. Raises ``error`` at the first step whose loss is not finite."""
        if not self._waiting:
            return
        steps, terms_T = zip(*self._waiting, strict=True)
        self._waiting = []
        for step, values in zip(steps, self.reduce(torch.stack(terms_T)).tolist(), strict=True):
            if not all(map(math.isfinite, values)):
                spelled = ", ".join(f"{name} = {x:.4g}" for name, x in zip(self._names, values, strict=True))
                raise self.error(step, f"the loss is not finite at step {step} ({spelled})")
            self._sums = [a + b for a, b in zip(self._sums or [0.0] * len(values), values, strict=True)]
            self._count += 1

    def log(self, step: int, **more: float) -> dict[str, Any]:
        """Close an interval: a row with the means since the last one."""
        self.look()
        terms = {name: total / self._count for name, total in zip(self._names, self._sums, strict=True)}
        self.rows.append({"step": step, "loss": sum(terms.values()), "terms": terms, **more})
        self._sums, self._count = [], 0
        return self.rows[-1]

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as plain JSON values."""
        self.look()
        return {"rows": self.rows, "names": self._names, "sums": self._sums, "count": self._count}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        self.rows, self._names = list(state["rows"]), list(state["names"])
        self._sums, self._count = list(state["sums"]), state["count"]


class Best:
    """The best step so far by validation accuracy, and its weights where there is a ``patience``.

    Attributes:
        step, top1: of the best step, the first of equals.
        weights: of that step, on the CPU.
    """

    def __init__(self, patience: int | None) -> None:
        """After ``patience`` looks without a better one it is ``given_up``; None never does, and keeps no weights."""
        self.patience, self.step, self.top1, self.waited = patience, 0, -1.0, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def given_up(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def look(self, step: int, top1: float, weights: Callable[[], dict[str, Tensor]]) -> None:
        """Takes note of the accuracy after ``step`` steps."""
        self.waited += 1
        if top1 > self.top1:
            self.step, self.top1, self.waited = step, top1, 0
            if self.patience is not None:
                self.weights = {name: tensor.detach().cpu().clone() for name, tensor in weights().items()}

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs beside the weights, as plain JSON values."""
        return {"step": self.step, "top1": self.top1, "waited": self.waited}

    def restore(self, state: dict[str, Any], weights: dict[str, Tensor]) -> None:
        """Continue from ``state``."""
        self.step, self.top1, self.waited, self.weights = state["step"], state["top1"], state["waited"], weights


def flat_row(row: dict[str, Any]) -> dict[str, float]:
    """A row of the log as numbers by name, for trackers: the terms as ``terms/cross_entropy``."""
    terms = {f"terms/{name}": value for name, value in row["terms"].items()}
    return {name: value for name, value in row.items() if name not in ("step", "terms")} | terms


class TrainProgress(Display):
    """Shows step, loss, images/s and time left: a bar on a terminal, a line from time to time elsewhere."""

    def __init__(self, title: str, steps: int, start: int, enabled: bool) -> None:
        """``start`` steps of ``steps`` are already done."""
        super().__init__(title, steps, start, enabled=enabled)
        self.title, self.steps, self._said = title, steps, time.monotonic()

    def log(self, row: dict[str, Any], seconds_left: float) -> None:
        """Show a row of the log."""
        note = f"loss {row['loss']:.4f}  {row['images_per_second']:.0f} images/s"
        if "validation_top1" in row:
            note = f"validation {row['validation_top1']:.1%}  {note}"
        self.update(note=note)
        due = time.monotonic() - self._said >= QUIET_SECONDS or row["step"] == self.steps
        if due and not self.bar:
            self._said = time.monotonic()
            self.say(f"{self.title}: step {row['step']}/{self.steps}  {note}  {spell(seconds_left)} left")


@contextlib.contextmanager
def stop_request(enabled: bool) -> Iterator[list[str]]:
    """Yields a list, empty until SIGINT or SIGTERM adds its name; the process then continues.

    A second signal acts as if this context were not there. Signals are left alone if it is not ``enabled`` and outside
    of the main thread.
    """
    asked: list[str] = []
    before: dict[int, Any] = {}

    def note(number: int, *_: object) -> None:
        asked.append(signal.Signals(number).name)
        put_back()

    def put_back() -> None:
        while before:
            signal.signal(*before.popitem())

    if enabled and threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        put_back()
