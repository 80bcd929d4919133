"""Running averages of what is trained."""

from __future__ import annotations

import itertools
import math
from typing import Literal

from steadyclip.core.spec import Spec


class Average(Spec):
    """avg <- avg + rate_t (theta - avg) after event t of T; event 0 is the start. All are running weighted means.

    Source: gaussian: Khattak et al. 2023 (PromptSRC), equation 9; beta: Shu et al. 2023 (CLIPood), equation 5.
    """

    kind: Literal["ema", "uniform", "gaussian", "beta"] = "ema"
    """How the points of the training are weighted."""
    per: Literal["step", "epoch"] = "step"
    """What an event is."""
    decay: float = 0.99
    """ema: share of the average that stays."""
    mean: float = 15.0
    """gaussian: the event with the largest weight; the nearest one where the training has no such event."""
    std: float = 1.0
    """gaussian: width, in events."""
    b: float = 0.5
    """beta: both parameters of the distribution."""
    final: bool = True
    """The average is what the training gives; false: only terms read it."""

    def __post_init__(self) -> None:
        self.require("decay", 0 <= self.decay < 1, "from 0 to below 1")
        self.require("std", self.std > 0, "above 0")
        self.require("b", self.b > 0, "above 0")

    def log_weight(self, t: int, T: int) -> float:
        """Logarithm of the weight of event ``t`` in the mean, before it is normalized; not for ema."""
        if self.kind == "gaussian":
            return -math.inf if t == 0 else -((t - self.mean) ** 2) / (2 * self.std**2)
        if self.kind == "beta":
            u = (t + 0.5) / (T + 1)
            return (self.b - 1) * math.log(u * (1 - u))
        return 0.0

    def rates(self, T: int) -> list[float]:
        """``rate_t`` for t = 0 to T."""
        if self.kind == "ema":
            return [1 - self.decay] * (T + 1)
        logs = [self.log_weight(t, T) for t in range(T + 1)]
        most = max(logs)  # far from the mean all weights would round to 0, and the start would stay
        weights = [math.exp(log - most) if log > -math.inf else 0.0 for log in logs]
        totals = itertools.accumulate(weights)
        return [weight / total if total else 0.0 for weight, total in zip(weights, totals, strict=True)]
