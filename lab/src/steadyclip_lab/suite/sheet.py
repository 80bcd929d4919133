"""An image of a data set to look at: some samples of each class, so that a wrong assignment is seen at once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError
from steadyclip.data.builtin import find_builtin

_CELL, _NAME_HEIGHT, _GAP = 68, 18, 12
_FRAMES = {"train": "#1a7f37", "val": "#0969da", "test": "#cf222e"}


def contact_sheet(out: str | Path, data_set: str, columns: int = 14, across: int = 2, split: str | None = None) -> Path:
    """Write a PNG with a strip of samples for every class: training framed green, validation blue, test red.

    Args:
        out: the PNG file.
        data_set: a built-in data set.
        columns: most samples of a class; each drawing is shown once, taken evenly over the class.
        across: classes beside each other.
        split: show this split only.

    Raises:
        DataError: the data set cannot be built, or ``out`` cannot be written.
    """
    import pyarrow.parquet as parquet
    from PIL import Image, ImageDraw, ImageFont

    classes: dict[str, dict[str, dict[str, Any]]] = {}
    known = find_builtin(data_set)
    if known is None:
        raise DataError(f"no built-in data set {data_set!r}.")
    for row in parquet.read_table(known.table(), columns=["path", "image", "label", "split"]).to_pylist():
        if split in (None, row["split"]):
            classes.setdefault(row["label"], {}).setdefault(row["path"].partition("@")[0], row)
    width, height = columns * _CELL + _GAP, _CELL + _NAME_HEIGHT
    down = -(-len(classes) // across)
    sheet = Image.new("RGB", (across * width, max(1, down) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (label, found) in enumerate(classes.items()):
        left, top = number // down * width, number % down * height
        draw.text((left + 3, top + 1), f"{label}  ({len(found)} drawings)", fill="black", font=font)
        chosen = list(found.values())
        step = max(1.0, len(chosen) / columns)
        for column in range(min(columns, len(chosen))):
            row = chosen[int(column * step)]
            x, y = left + column * _CELL, top + _NAME_HEIGHT
            draw.rectangle((x, y, x + _CELL - 1, y + _CELL - 1), fill=_FRAMES[row["split"]])
            sheet.paste(Image.open(io.BytesIO(row["image"])), (x + 2, y + 2))
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}.") from None
    return Path(out)
