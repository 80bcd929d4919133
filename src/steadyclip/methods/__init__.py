"""One file for each published method. Importing this package registers them all."""

from steadyclip.heads import NoHead
from steadyclip.methods import (  # noqa: F401  (registration)
    arf,
    bottleneck,
    coop,
    dra,
    features,
    flyp,
    full,
    kgcoop,
    linear_probe,
    lora,
    maple,
    mma,
    mmrl,
    orthcr,
    prograd,
    promptsrc,
    robust,
    tcp,
    tip_adapter,
    zero_shot,
)
from steadyclip.methods.average import Average
from steadyclip.methods.base import Method
from steadyclip.methods.compose import Composed, compose
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import find_method, get_method, methods, register

__all__ = [
    "Average", "Composed", "Method", "NoHead", "Recipe", "compose", "find_method", "get_method", "methods", "register",
]  # fmt: skip
