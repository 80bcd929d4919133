"""How a method is trained unless the user says otherwise. Free of torch, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Optimisation settings of one training.

    Exactly one of ``steps`` and ``epochs`` is set. A method carries its published values as ``Method.recipe``;
    the trainer takes a (possibly changed) ``Recipe`` and nothing else decides how long or how fast it trains.
    """

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Update rule."""
    learning_rate: float = 1e-5
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled for AdamW, L2 for SGD; not applied to gains, biases and the logit scale."""
    momentum: float = 0.9
    """SGD momentum; AdamW's beta 1."""
    beta2: float = 0.999
    """AdamW's beta 2; unused by SGD."""
    steps: int | None = None
    """Optimizer steps in all."""
    epochs: float | None = None
    """Passes over the training images."""
    batch_size: int = 32
    """Images per optimizer step, over all processes and accumulation steps."""
    warmup_steps: int = 0
    """Linear warm-up from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up."""
    clip_norm: float | None = None
    """Gradient norm is clipped to this; None leaves it."""
