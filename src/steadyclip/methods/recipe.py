"""How a method is trained unless the user says otherwise. Free of torch, so that the command line stays quick."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from steadyclip.core.limits import BatchSize, Count, Limits, Number


@dataclass(frozen=True)
class Recipe:
    """Optimization settings of one training.

    Exactly one of ``steps``, ``steps_per_shot`` and ``epochs`` is set. A method carries its published values as
    ``Method.recipe``; the trainer takes a (possibly changed) ``Recipe`` and nothing else decides how long or how fast
    it trains.

    Raises:
        ValueError: none or several of the three lengths are set.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Update rule."""
    learning_rate: Annotated[float, Limits(0, 10**6)] = 1e-5
    """Peak learning rate."""
    weight_decay: Annotated[float, Limits(0, 10**6)] = 0.0
    """Decoupled for AdamW, L2 for SGD; not applied to gains, biases and the logit scale."""
    momentum: float = 0.9
    """SGD momentum; AdamW's beta 1."""
    beta2: float = 0.999
    """AdamW's beta 2; unused by SGD."""
    steps: Count | None = None
    """Optimizer steps in all."""
    steps_per_shot: Count | None = None
    """Optimizer steps for every shot; without few-shot sampling a shot is a whole image per class."""
    epochs: Annotated[float, Limits(0, 10**6, above=True)] | None = None
    """Passes over the training images."""
    batch_size: BatchSize = 32
    """Images per optimizer step, over all processes and accumulation steps."""
    warmup_steps: Number = 0
    """Linear warm-up from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    clip_norm: Annotated[float, Limits(0, above=True)] | None = None
    """Gradient norm is clipped to this; None leaves it."""
    views: Number | None = None
    """Augmented views of each image, drawn once: epoch e takes view e mod views, so that what the frozen model makes of
    them can be cached. None draws anew in every epoch; 0 prepares images as for evaluation."""

    def __post_init__(self) -> None:
        if sum(length is not None for length in (self.steps, self.steps_per_shot, self.epochs)) != 1:
            raise ValueError("a recipe sets exactly one of steps, steps_per_shot and epochs.")

    def total_steps(self, images: int, classes: int) -> int:
        """Optimizer steps for a training set of ``images`` over ``classes``; at least one."""
        if self.steps is not None:
            return self.steps
        if self.steps_per_shot is not None:
            return self.steps_per_shot * math.ceil(images / classes)
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * images / self.batch_size))
