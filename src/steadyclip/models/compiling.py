"""Compiled passes of a model: a slow first step and faster ones after it. Where that fails, things go on without."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from steadyclip.core.progress import warn

if TYPE_CHECKING:
    from steadyclip.models.encoder import DualEncoder

_GRAPHS = 64
"""Compiled forms of a pass: images and texts, tuned and frozen, of several sizes."""


class Compiled:
    """Stands in for the passes of ``model``.

    Attributes:
        reason: why there is no compiler any more; "" while there is one.
    """

    def __init__(self, model: DualEncoder) -> None:
        self.model, self.reason = model, ""
        self._forward = torch.compile(model.forward)

    def __call__(self, *args: Any) -> dict[str, Tensor]:
        from torch._dynamo.exc import TorchDynamoException

        if self.reason:
            return self.model(*args)
        try:
            return self._forward(*args)
        except TorchDynamoException as error:
            self.give_up(error)
        return self.model(*args)

    def give_up(self, error: BaseException) -> None:
        """Goes on without the compiler, and says once why."""
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        self.reason = lines[0] if lines else type(error).__name__
        warn(f"the model is not compiled, so steps are slower: {self.reason.rstrip('.')}")


@contextmanager
def compiled(model: DualEncoder, asked: Literal["auto", "on", "off"]) -> Iterator[Compiled | None]:
    """Inside, the passes of ``model`` are compiled, with gradients and without; ``auto`` does so on CUDA only."""
    if asked == "off" or (asked == "auto" and model.device.type != "cuda"):
        yield None
        return
    import torch._dynamo
    import torch._inductor.config

    made = Compiled(model)
    # Random draws are those of torch without a compiler, so that it changes the last digits only.
    draws = torch._inductor.config.patch(fallback_random=True)
    limit = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # torch 2.6
    with torch._dynamo.config.patch({limit: _GRAPHS}), draws:
        model.compiled = made
        try:
            yield made
        finally:
            model.compiled = None
