"""How a training runs, and whether its settings make sense. Imports no torch, so that the command line starts fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from steadyclip.core.errors import UsageError, require, require_choices
from steadyclip.core.limits import BatchSize, Count, Minutes, Seed, Workers, check_limits
from steadyclip.core.precision import AskedPrecision

if TYPE_CHECKING:
    from steadyclip.methods.recipe import Recipe

Tracker = Literal["tensorboard", "wandb", "trackio", "mlflow"]


@dataclass(frozen=True)
class RunConfig:
    """Where and how a training runs; settings of the method are part of --method."""

    out: Path | None = None
    """Run folder; the same command again resumes there. None keeps nothing on disk."""
    seed: Seed = 1
    """Fixes initial adapters, order, augmentation and dropout."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the forward pass; weights and optimizer stay in fp32. `auto` is bf16 on CUDA, fp32 elsewhere."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the towers: a slow start and faster steps. `auto` does it on CUDA only."""
    microbatch: Literal["auto", "off"] = "off"
    """`auto`: where a batch does not fit into the memory, it is computed in as many parts as it takes to fit."""
    shard: bool = False
    """Split weights, gradients and the optimizer's state over the processes of `torchrun`, for models too large for one
    device. For methods that train the model's own weights and read nothing else: `full`, `flyp`, `arf`."""
    workers: Workers = 0
    """Processes that decode images; 0 decodes in the training process."""
    checkpoint_steps: Count | None = None
    """Steps between checkpoints."""
    checkpoint_minutes: Minutes | None = 5.0
    """Minutes between checkpoints."""
    log_every: Count = 10
    """Steps between log lines; losses are read from the device only then."""
    validate_every: Count | None = None
    """Steps between scorings of the validation images; their accuracy and their cross entropy stand in `log.jsonl`."""
    patience: Count | None = None
    """Stop after so many scorings without a better one, and keep the weights of the best; with --validate-every."""
    log: tuple[Tracker, ...] = ()
    """Also log to `tensorboard`, `wandb`, `trackio` or `mlflow`, where it is installed."""
    progress: bool = True
    """Show loss, speed and time left on standard error."""
    feature_folder: Path | None = None
    """Folder where features of the frozen model are kept on disk, for heads that are filled from them."""


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """A run's settings, with those that a row may change: these fields are keys of every row, as `lora[cutout=0.5]`."""

    accumulate: BatchSize = 1
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
        check_limits(self)
        if self.patience is not None and self.validate_every is None:
            raise UsageError("patience counts scorings of the validation images: set validate_every, too.")
        if self.shard and self.compile == "on":
            raise UsageError("--compile on compiles whole towers, and --shard splits them: leave one of the two out.")
        require(self, "smallest_crop", 0 < self.smallest_crop <= 1, "a share from 0 to 1")
        require(self, "cutout", 0 <= self.cutout < 1, "a share from 0 to below 1")
        require_choices(self)


DECIDES = ("seed", "precision", "accumulate", "augment", "smallest_crop", "cutout")
"""Fields that change the trained weights: a run is resumed only when they are the same."""


def check_recipe(recipe: Recipe) -> None:
    """Raises UsageError naming the field of ``recipe`` that makes no sense."""
    check_limits(recipe)
    for name in ("momentum", "beta2"):
        require(recipe, name, 0 <= getattr(recipe, name) < 1, "from 0 to below 1")
    require_choices(recipe)
