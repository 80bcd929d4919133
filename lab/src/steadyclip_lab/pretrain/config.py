"""Settings of `steadyclip pretrain`. Free of torch, so that the command line stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from steadyclip.core.precision import Precision


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
    seed: int = 1
    """Fixes initial weights, order and augmentation."""
    batch_size: int = 256
    """Pairs in a step."""
    teacher_epochs: int = 30
    """Passes of the convolutional teacher over the images."""
    distil_epochs: int = 60
    """Passes of the vision transformer, taught by the teacher."""
    text_steps: int = 6000
    """Steps of the text tower towards the sentence encoder's space."""
    joint_epochs: int = 6
    """Passes of contrastive training of both towers."""
    negatives: int = 4096
    """Random texts beside the batch's own in the softmax over texts."""
    softness: float = 0.07
    """Temperature of the softmax over texts that images are taught: near meanings are no mistakes; 0 for one text."""
    image_size: int = 64
    """Pixels, width and height."""
    patch_size: int = 8
    """Pixels, width and height."""
    width: int = 192
    """Hidden width of both transformers."""
    vision_layers: int = 6
    """Blocks of the vision transformer."""
    text_layers: int = 4
    """Blocks of the text transformer."""
    heads: int = 3
    """Attention heads of both."""
    embed_dim: int = 256
    """Width of the shared space."""
    vocabulary: int = 4096
    """Size of the byte-pair vocabulary, trained on the texts."""
    context: int = 32
    """Tokens in a text, at most."""
    checkpoint_minutes: float = 2.0
    """Time between checkpoints within a stage."""
    precision: Precision = "bf16"
    """Arithmetic of the forward pass; weights and optimizer stay in fp32."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
