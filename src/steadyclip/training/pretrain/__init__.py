"""`steadyclip pretrain`: a small CLIP from image-text pairs. The settings are free of torch, the stages are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from steadyclip.training.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from steadyclip.training.pretrain.stages import pretrain

__all__ = ["PretrainConfig", "pretrain"]


def __getattr__(name: str) -> object:
    if name == "pretrain":
        from steadyclip.training.pretrain.stages import pretrain

        return pretrain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
