"""How classes are told apart: by their names, by rows of weights, by a cache of training images."""

from steadyclip.heads.base import FeatureTask, Head, HeadSpec, NoHead
from steadyclip.heads.blended import BlendedHead
from steadyclip.heads.cache import CacheHead
from steadyclip.heads.feature_adapter import FeatureAdapterHead
from steadyclip.heads.from_text import FromTextHead, ResidualHead, ZeroShotHead
from steadyclip.heads.linear import LinearHead
from steadyclip.heads.space import SpaceHead
from steadyclip.heads.text import TextHead

__all__ = [
    "BlendedHead", "CacheHead", "FeatureAdapterHead", "FeatureTask", "FromTextHead", "Head", "HeadSpec", "LinearHead",
    "NoHead", "ResidualHead", "SpaceHead", "TextHead", "ZeroShotHead",
]  # fmt: skip
