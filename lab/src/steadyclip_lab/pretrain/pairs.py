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
from steadyclip.data.decode import UnreadableImage, decode

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
    import pyarrow.parquet as pq
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataError(f"{path}: no such parquet file of image-text pairs.")
    columns = pq.read_schema(path).names
    for column in (image_column, text_column):
        if column not in columns:
            raise DataError(
                f"{path} has no column {column!r} but {', '.join(columns)}: name it by --image-column / --text-column."
            )
    table = pq.read_table(path, columns=[image_column, text_column])
    captions = set()
    if caption_column in columns:
        captions = set(pq.read_table(path, columns=[caption_column])[caption_column].to_pylist()) - {None, ""}
    images, texts, skipped = [], [], []
    for row, (data, text) in enumerate(
        zip(table[image_column].to_pylist(), table[text_column].to_pylist(), strict=True)
    ):
        if not text:
            skipped.append(f"row {row}: no text")
            continue
        try:
            image = (_with_alpha if with_alpha else decode)(data or b"", f"row {row}")
        except UnreadableImage as error:
            skipped.append(str(error))
            continue
        fitted = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(fitted)).permute(2, 0, 1))
        texts.append(text)
    if not images:
        raise DataError(
            f"{path}: none of its {table.num_rows} images can be read ({skipped[0] if skipped else 'it is empty'})."
        )
    distinct = sorted(set(texts))
    place = {text: i for i, text in enumerate(distinct)}
    return Pairs(torch.stack(images), torch.tensor([place[t] for t in texts]), distinct, sorted(captions), skipped)


def _with_alpha(data: bytes, key: str) -> Image.Image:
    """The image in mode RGBA."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGBA")
    except Exception as error:  # Pillow's decoders raise nearly anything on broken files
        raise UnreadableImage(key, f"broken image ({type(error).__name__})") from None
