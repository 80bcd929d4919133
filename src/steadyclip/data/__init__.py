"""Pictures with names: data sources, their splits, what training may see of them, and batches.

The names below are imported when they are first used: listing and sampling a data source needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# public name -> the module that defines it
_PUBLIC = {
    "ImageData": "task",
    "ImageLoader": "batches",
    "ImageSet": "images",
    "ImageTask": "task",
    "Report": "task",
    "UnreadableImage": "decode",
    "load_data": "source",
    "loader": "batches",
    "read_image": "images",
    "read_split": "splits",
    "write_split": "splits",
}

__all__ = [*_PUBLIC]

if TYPE_CHECKING:
    from steadyclip.data.batches import ImageLoader, loader
    from steadyclip.data.decode import UnreadableImage
    from steadyclip.data.images import ImageSet, read_image
    from steadyclip.data.source import load_data
    from steadyclip.data.splits import read_split, write_split
    from steadyclip.data.task import ImageData, ImageTask, Report


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"steadyclip.data.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'steadyclip.data' has no attribute {name!r}")
