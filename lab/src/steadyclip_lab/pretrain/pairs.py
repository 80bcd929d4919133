"""Image-text pairs in memory: decoded once, seen many times."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from steadyclip.core.errors import DataError
from steadyclip.core.seeds import step_seed
from steadyclip.data.decode import UnreadableImage, check_size, decode
from steadyclip.data.images import image_bytes
from steadyclip.data.tables import Table, first_text

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Pairs:
    """``images_NCHW`` uint8; ``text_N`` the index of each image's text among the distinct ``texts``; and captions."""

    images_NCHW: Tensor
    text_N: Tensor
    texts: list[str]
    captions: list[str]
    skipped: list[str]

    def batch(self, step: int, size: int, seed: int) -> Tensor:
        """Row numbers of a step: every epoch is a seeded permutation, and the last short batch is left out."""
        per_epoch = len(self.images_NCHW) // size
        epoch, place = divmod(step, per_epoch)
        order_N = torch.randperm(
            len(self.images_NCHW), generator=torch.Generator().manual_seed(step_seed(seed, "order", epoch))
        )
        return order_N[place * size : (place + 1) * size]


def read_pairs(
    path: Path,
    size: int,
    image_column: str,
    text_column: str,
    caption_column: str | None = None,
    with_alpha: bool = False,
) -> Pairs:
    """Decodes a parquet of image bytes and text to ``size`` x ``size`` pixels (shortest side, center crop).

    Images are laid on white, or keep their transparency as a fourth channel (``with_alpha``).

    Raises:
        DataError: no such file or column, or no image can be read.
    """
    from PIL import Image, ImageOps

    table = Table.open(path, "Name a parquet file of image-text pairs.")
    table.need(image_column, text_column, remedy="Name the columns by --image-column and --text-column.")
    captions = set()
    if caption_column in table.columns:
        captions = {first_text(row[caption_column], f"{path.name} row {number}", caption_column)[0]
                    for number, row in table.rows([caption_column])} - {""}  # fmt: skip
    images, texts, skipped = [], [], []
    for number, row in table.rows([image_column, text_column]):
        key = f"row {number - 1}"
        text, _ = first_text(row[text_column], f"{path.name} row {number}", text_column)
        if not text:
            skipped.append(f"{key}: no text")
            continue
        try:
            data = image_bytes(row[image_column], key)
            image = (_with_alpha if with_alpha else decode)(data, key)
        except UnreadableImage as error:
            skipped.append(str(error))
            continue
        fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(fitted)).permute(2, 0, 1))
        texts.append(text)
    if not images:
        raise DataError(
            f"{path}: none of its {len(skipped)} images can be read ({skipped[0] if skipped else 'it is empty'})."
        )
    distinct = sorted(set(texts))
    place = {text: i for i, text in enumerate(distinct)}
    return Pairs(torch.stack(images), torch.tensor([place[t] for t in texts]), distinct, sorted(captions), skipped)


def _with_alpha(data: bytes, key: str) -> Image.Image:
    """The image in mode RGBA."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            check_size(image, key)
            return image.convert("RGBA")
    except UnreadableImage:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise UnreadableImage(key, f"broken image ({type(error).__name__})") from None
