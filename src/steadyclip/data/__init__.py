"""Images with names: data sources, their splits, what training may see of them, and batches.

The names below are imported when they are first used: listing and sampling a data source needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__all__ = [
    "ImageData",
    "ImageLoader",
    "ImageSet",
    "ImageTask",
    "Report",
    "UnreadableImage",
    "load_data",
    "loader",
    "read_image",
    "read_split",
    "write_split",
]

# public names that are not in the module `task`
_MODULES = {
    **dict.fromkeys(("ImageLoader", "loader"), "batches"),
    **dict.fromkeys(("ImageSet", "read_image"), "images"),
    **dict.fromkeys(("read_split", "write_split"), "splits"),
    "UnreadableImage": "decode",
    "load_data": "source",
}

if TYPE_CHECKING:
    from steadyclip.data.batches import ImageLoader, loader
    from steadyclip.data.decode import UnreadableImage
    from steadyclip.data.images import ImageSet, read_image
    from steadyclip.data.source import load_data
    from steadyclip.data.splits import read_split, write_split
    from steadyclip.data.task import ImageData, ImageTask, Report


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module(f"steadyclip.data.{_MODULES.get(name, 'task')}"), name)
    raise AttributeError(f"module 'steadyclip.data' has no attribute {name!r}")
