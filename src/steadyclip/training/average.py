"""The running average of what is trained, while it is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steadyclip.methods.average import Average
from steadyclip.methods.base import Method
from steadyclip.training.step import Step


class RunningAverage:
    """Keeps the average of a step's trained parameters, where the planner finds it for reads of that state."""

    def __init__(self, average: Average, step: Step, steps: int, steps_per_epoch: int) -> None:
        self.spec, self.step, self.steps = average, step, steps
        self.every = 1 if average.per == "step" else steps_per_epoch
        self.rates = average.rates(math.ceil(steps / self.every))
        self.step.planner.average = {name: p.detach().clone() for name, p in step.trained.items()}

    @classmethod
    def of(cls, method: Method, step: Step, steps: int, steps_per_epoch: int) -> RunningAverage | None:
        """The one that the method wants."""
        return cls(method.average, step, steps, steps_per_epoch) if method.average else None

    @torch.no_grad()
    def update(self, done: int) -> None:
        """After ``done`` optimizer steps; the last of them ends an epoch that is not full."""
        if done % self.every == 0 or done == self.steps:
            for name, value in self.state().items():
                value.lerp_(self.step.trained[name], self.rates[math.ceil(done / self.every)])

    @torch.no_grad()
    def finish(self) -> None:
        """Where the average is what the training gives, put it in place of the last point."""
        if self.spec.final:
            for name, value in self.state().items():
                self.step.trained[name].copy_(value)

    def state(self) -> dict[str, Tensor]:
        """The average by parameter name."""
        assert self.step.planner.average is not None
        return self.step.planner.average

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from ``state``."""
        for name, value in self.state().items():
            value.copy_(state[name])
