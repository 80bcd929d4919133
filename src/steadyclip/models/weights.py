"""Named tensors: whether they are the same, and whether they fit a model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from steadyclip.core.errors import ModelError


def digest(weights: Mapping[str, Tensor]) -> str:
    """16 hex digits over names, shapes and float32 values."""
    found = hashlib.sha256()
    for name in sorted(weights):
        values = weights[name].detach().to("cpu", torch.float32).contiguous().numpy()
        found.update(f"{name} {list(values.shape)}\n".encode())
        found.update(np.ascontiguousarray(values, "<f4").data)
    return found.hexdigest()[:16]


@torch.no_grad()
def copy_into(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Set the tensors of ``own`` in place.

    Raises:
        ModelError: names are missing, unknown, or of another shape; nothing has been changed.
    """
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(
            f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
            for name in own.keys() & state.keys()
            if own[name].shape != state[name].shape
        ),
    }
    if any(problems.values()):
        listed = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
        raise ModelError(f"these trained weights are of another model or method. {listed}.")
    for name, value in own.items():
        value.copy_(state[name])


def some(names: Sequence[str]) -> str:
    """The first few of many names, for a message."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
