"""One view over CLIP-like models: ``load`` gives a ``DualEncoder``, whatever library the checkpoint comes from."""

from steadyclip.models.adapter import Adapter
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.features import ImageFeatures, image_features
from steadyclip.models.loading import load
from steadyclip.models.preprocess import Preprocess
from steadyclip.models.towers import Block, Layout, Tokens, Tower

__all__ = [
    "Adapter", "Block", "DualEncoder", "ImageFeatures", "Layout", "Preprocess", "Tokens", "Tower", "image_features",
    "load",
]  # fmt: skip
