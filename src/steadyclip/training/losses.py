"""The losses of a training, kept on the device until they are wanted: reading one makes the processor wait.

K steps since the last look, T terms of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class NotFinite(Exception):
    """The loss of step ``step`` is NaN or infinite; ``terms`` are its terms by name."""

    def __init__(self, step: int, terms: dict[str, float]) -> None:
        spelled = ", ".join(f"{name} = {value:.4g}" for name, value in terms.items())
        super().__init__(f"the loss is not finite at step {step} ({spelled})")
        self.step, self.terms = step, terms


class Losses:
    """Collects each step's terms; averages them over the steps between two log lines.

    ``rows`` are the log lines so far: ``{"step", "loss", "terms": {name: mean}, ...}``.
    """

    def __init__(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """``reduce`` sums a tensor over all processes."""
        self.reduce = reduce
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
        """Read what is waiting.

        Raises:
            NotFinite: a loss is NaN or infinite; the first one is told.
        """
        if not self._waiting:
            return
        steps, values_T = zip(*self._waiting, strict=True)
        self._waiting = []
        for step, values in zip(steps, self.reduce(torch.stack(values_T)).tolist(), strict=True):
            if not all(map(math.isfinite, values)):
                raise NotFinite(step, dict(zip(self._names, values, strict=True)))
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
        """Go on from ``state``."""
        self.rows, self._names = list(state["rows"]), list(state["names"])
        self._sums, self._count = list(state["sums"]), state["count"]
