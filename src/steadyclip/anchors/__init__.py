"""Anchors: rich text given back to a fine-tuning, as captions of its images and as pairs retrieved from a pool.

Names are imported when they are first used: reading a file of captions needs no captioner, and no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# public name -> the module that defines it
_PUBLIC = {
    "Anchors": "pairs",
    "Captioner": "captions",
    "Captions": "streams",
    "CaptionsOfImages": "streams",
    "PairsForImages": "streams",
    "Pair": "pairs",
    "Pool": "pool",
    "RetrievedPairs": "streams",
    "caption_images": "captions",
    "embed_pool": "embedding",
    "load_captioner": "captioners",
    "random_like": "retrieval",
    "read_anchors": "pairs",
    "read_captions": "captions",
    "retrieve": "retrieval",
    "write_anchors": "pairs",
}

__all__ = [
    "Anchors",
    "Captioner",
    "Captions",
    "CaptionsOfImages",
    "Pair",
    "PairsForImages",
    "Pool",
    "RetrievedPairs",
    "caption_images",
    "embed_pool",
    "load_captioner",
    "random_like",
    "read_anchors",
    "read_captions",
    "retrieve",
    "write_anchors",
]

if TYPE_CHECKING:
    from steadyclip.anchors.captioners import load_captioner
    from steadyclip.anchors.captions import Captioner, caption_images, read_captions
    from steadyclip.anchors.embedding import embed_pool
    from steadyclip.anchors.pairs import Anchors, Pair, read_anchors, write_anchors
    from steadyclip.anchors.pool import Pool
    from steadyclip.anchors.retrieval import random_like, retrieve
    from steadyclip.anchors.streams import Captions, CaptionsOfImages, PairsForImages, RetrievedPairs


def __getattr__(name: str) -> object:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
