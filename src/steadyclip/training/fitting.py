"""The gradients of a step, computed again where the memory or the compiler gave out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from steadyclip.core.errors import OutOfMemory
from steadyclip.core.precision import no_memory
from steadyclip.core.progress import warn
from steadyclip.models.compiling import Compiled

if TYPE_CHECKING:
    from steadyclip.objectives import Batch
    from steadyclip.training.step import Step


class Fitting:
    """Makes a batch fit into the memory: with ``microbatch="auto"``, in twice as many parts as did not fit.

    Every random draw of a step has a seed of its own, so nothing of a failed attempt is left. The number of parts stays
    for the steps that follow, in ``step.accumulate``.
    """

    def __init__(self, step: Step, microbatch: Literal["auto", "off"], compiled: Compiled | None) -> None:
        self.step, self.microbatch, self.compiled = step, microbatch, compiled

    def gradients(self, batch: Batch, seed: int, whole: int) -> dict[str, Tensor]:
        """As ``Step.gradients``.

        Raises:
            OutOfMemory: the batch does not fit, and may not or cannot be cut further.
        """
        while True:
            try:
                return self.step.gradients(batch, seed, whole)
            except (RuntimeError, MemoryError) as error:
                self._change(error, len(batch.labels_B))
            # only here, as the error holds on to what it was raised among
            for parameter in self.step.trained.values():
                parameter.grad = None
            if self.step.model.device.type == "cuda":
                torch.cuda.empty_cache()

    def _change(self, error: BaseException, images: int) -> None:
        """Set what will be different at the next attempt; raises where there is nothing to change."""
        from torch._dynamo.exc import TorchDynamoException

        if isinstance(error, TorchDynamoException) and self.compiled and not self.compiled.reason:
            self.compiled.give_up(error)
            return
        if not no_memory(error):
            raise error
        parts, device = self.step.accumulate, self.step.model.device
        tried = f"a batch of {images} images in {parts} part{'s' * (parts > 1)} does not fit on {device}"
        if self.microbatch != "auto":
            raise OutOfMemory(
                f"out of memory: {tried}. Give `steadyclip train` --microbatch auto, which finds parts that fit, or "
                f"the row accumulate={2 * parts}"
            ) from None
        if parts >= images:
            raise OutOfMemory(f"out of memory: {tried}. Choose a smaller model, or a method that trains less") from None
        self.step.accumulate = min(2 * parts, images)
        warn(f"{tried}: it is computed in {self.step.accumulate} parts from here on, which gives the same gradient")
