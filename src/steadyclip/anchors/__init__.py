"""Anchors: rich text given back to a fine-tuning, as captions of its images and as pairs retrieved from a pool."""

from steadyclip.anchors.captions import read_captions
from steadyclip.anchors.pairs import Anchors, Pair, read_anchors, write_anchors
from steadyclip.anchors.streams import Captions, RetrievedPairs

__all__ = ["Anchors", "Captions", "Pair", "RetrievedPairs", "read_anchors", "read_captions", "write_anchors"]
