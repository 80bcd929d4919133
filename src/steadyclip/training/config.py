"""How a training is run; what is optimized is in ``Recipe``. Free of torch, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steadyclip.core.errors import UsageError
from steadyclip.core.precision import Precision, check_precision


@dataclass(frozen=True)
class RunConfig:
    """Where and how a training runs; settings of the method are part of --method."""

    out: Path | None = None
    """Run folder; the same command again resumes there. None keeps nothing on disk."""
    seed: int = 1
    """Fixes initial adapters, order, augmentation and dropout."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass; weights and optimizer stay in fp32."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes the accelerator if there is one."""
    workers: int = 0
    """Processes that decode images; 0 decodes in the training process."""
    checkpoint_steps: int | None = None
    """Steps between checkpoints."""
    checkpoint_minutes: float | None = 5.0
    """Minutes between checkpoints."""
    log_every: int = 10
    """Steps between log lines; losses are read from the device only then."""
    progress: bool = True
    """Show loss, speed and time left on standard error."""
    feature_folder: Path | None = None
    """Folder where features of the frozen model are kept on disk, for heads that are filled from them."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """And what a row may change: its own fields are keys of every row, as `lora[cutout=0.5]`."""

    accumulate: int = 1
    """Parts that each batch is computed in, to save memory; the gradient is that of the whole batch."""
    augment: bool = True
    """Random resized crop and flip of training images; off, they are prepared as for evaluation."""
    smallest_crop: float = 0.08
    """Smallest random crop, as a share of the image's area."""
    cutout: float = 0.0
    """Side of a random square that is cut from every training image, as a share of the image; 0 cuts nothing."""
    cache: Literal["auto", "off"] = "auto"
    """`auto` computes features of the frozen model once, where the recipe sets `views`; the losses are the same."""

    def check(self) -> None:
        """Raises UsageError naming the field that makes no sense."""
        for name, least in {"accumulate": 1, "log_every": 1, "checkpoint_steps": 1, "workers": 0}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name}={value} must be {least} or more.")
        if self.checkpoint_minutes is not None and not self.checkpoint_minutes > 0:
            raise UsageError(f"checkpoint_minutes={self.checkpoint_minutes} must be more than 0.")
        if not 0 < self.smallest_crop <= 1:
            raise UsageError(f"smallest_crop={self.smallest_crop} must be a share from 0 to 1.")
        if not 0 <= self.cutout < 1:
            raise UsageError(f"cutout={self.cutout} must be a share from 0 to below 1.")
        check_precision(self.precision)
        if self.cache not in ("auto", "off"):
            raise UsageError(f"cache={self.cache!r} must be one of auto, off.")
        if self.device not in ("auto", "cpu"):
            raise UsageError(f"device={self.device!r} must be one of auto, cpu.")


DECIDES = ("seed", "precision", "accumulate", "augment", "smallest_crop", "cutout")
"""Fields that change the trained weights: a run is resumed only when they are the same."""
