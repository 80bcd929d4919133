"""One file for each published method. Importing this package registers them all."""

from steadyclip.methods import arf, bottleneck, dra, flyp, full, linear_probe, lora, orthcr, zero_shot  # noqa: F401  (registration)
from steadyclip.methods.base import Batch, Method, NoHead, Stream, get_method, methods, register
from steadyclip.methods.recipe import Recipe

__all__ = ["Batch", "Method", "NoHead", "Recipe", "Stream", "get_method", "methods", "register"]
