"""Switches of modules, such as training mode, turned off for a while."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from torch import nn


@contextmanager
def turned_off(modules: Iterable[nn.Module], switch: Literal["training", "enabled", "tuned"]) -> Iterator[None]:
    """Inside, ``switch`` of all ``modules`` is False; each gets its own state back."""
    on = [module for module in modules if getattr(module, switch)]
    for module in on:
        setattr(module, switch, False)
    try:
        yield
    finally:
        for module in on:
            setattr(module, switch, True)
