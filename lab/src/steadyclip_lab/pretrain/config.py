"""Settings of `steadyclip pretrain`. Free of torch, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from steadyclip.core.errors import UsageError, require
from steadyclip.core.limits import BatchSize, Limits, Minutes, Number, Seed, Size, check_limits
from steadyclip.core.precision import Precision

Layers = Annotated[int, Limits(1, 1000)]
"""Blocks of a transformer."""


@dataclass(frozen=True)
class PretrainConfig:
    """A small CLIP from image-text pairs, in four stages: teacher, distil, text, joint."""

    data: str
    """Parquet of image bytes and text."""
    out: Path
    """Folder for checkpoints, loss curves and the finished model; the same command again resumes."""
    image_column: str = "image"
    """Column with encoded image bytes (PNG, JPEG, ...)."""
    text_column: str = "text"
    """Column with one text for each image."""
    caption_column: str | None = "caption"
    """Column with a longer text for each image, which the text tower learns too; left out where there is none."""
    start_from: Path | None = None
    """Output folder of an earlier pretraining of the same sizes, to go on from; a stage of 0 epochs is taken over."""
    text_teacher: str = "all-minilm-l6-v2"
    """Sentence encoder that defines the space: the installed package of that name, or a local directory."""
    augment: Literal["drawings", "scenes", "photos"] = "drawings"
    """`drawings`: colors, pose, stroke width; `scenes`: drawings with transparency, shown on textures, among others,
    sketched, at night; `photos`: random resized crop, flip, color jitter."""
    templates: tuple[str, ...] = (
        "{}",
        "an icon of a {}.",
        "a drawing of a {}.",
        "a photo of a {}.",
        "an image of the {}.",
    )
    """Prompts that the text tower learns to see through."""
    seed: Seed = 1
    """Fixes initial weights, order and augmentation."""
    batch_size: BatchSize = 256
    """Pairs in a step."""
    teacher_epochs: Number = 30
    """Passes of the convolutional teacher over the images."""
    distil_epochs: Number = 60
    """Passes of the vision transformer, taught by the teacher."""
    text_steps: Number = 6000
    """Steps of the text tower towards the sentence encoder's space."""
    joint_epochs: Number = 6
    """Passes of contrastive training of both towers."""
    negatives: Number = 4096
    """Random texts beside the batch's own in the softmax over texts."""
    softness: Annotated[float, Limits(0, 1000)] = 0.07
    """Temperature of the softmax over texts that images are taught: near meanings are no mistakes; 0 for one text."""
    image_size: Annotated[int, Limits(8, 1024)] = 64
    """Pixels, width and height."""
    patch_size: Size = 8
    """Pixels, width and height."""
    width: Size = 192
    """Hidden width of both transformers."""
    vision_layers: Layers = 6
    """Blocks of the vision transformer."""
    text_layers: Layers = 4
    """Blocks of the text transformer."""
    heads: Size = 3
    """Attention heads of both."""
    embed_dim: Size = 256
    """Width of the shared space."""
    vocabulary: Annotated[int, Limits(514, 10**6)] = 4096
    """Size of the byte-pair vocabulary, trained on the texts."""
    context: Annotated[int, Limits(3, 10_000)] = 32
    """Tokens in a text, at most."""
    checkpoint_minutes: Minutes = 2.0
    """Time between checkpoints within a stage."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights and optimizer stay in fp32."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def check(self) -> None:
        """Raises UsageError naming a value that cannot be meant, before anything is read."""
        check_limits(self)
        require(self, "patch_size", self.image_size % self.patch_size == 0, f"a divisor of {self.image_size} pixels")
        require(self, "heads", self.width % self.heads == 0, f"a divisor of the width {self.width}")
        require(self, "templates", bool(self.templates), "one prompt or more")
        for template in self.templates:
            try:
                fits = template.count("{}") == 1 and bool(template.format(""))
            except (IndexError, KeyError, ValueError):  # other braces
                fits = False
            if not fits and template != "{}":
                raise UsageError(f"templates: {template!r} must have one {{}} for the text, and no other brace.")
        if self.start_from is None:
            for name in ("teacher_epochs", "distil_epochs", "text_steps", "joint_epochs"):
                require(self, name, getattr(self, name) > 0, "1 or more, unless --start-from has that stage")
