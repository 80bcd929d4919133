"""Exact search of a pool for the pairs that are nearest to fine-tune images."""

from __future__ import annotations

from steadyclip.anchors.pairs import Anchors, Pair, read_anchors, write_anchors

__all__ = ["Anchors", "Pair", "read_anchors", "write_anchors"]
