"""A picture of a data set to look at: some samples of each class, so that a wrong assignment is seen at once."""

from __future__ import annotations

import io
from pathlib import Path

from steadyclip.data.icons.building import built
from steadyclip.errors import DataError

_CELL, _NAME_HEIGHT, _FRAME = 68, 18, {"train": "#1a7f37", "val": "#0969da", "test": "#cf222e"}


def contact_sheet(out: str | Path, data_set: str = "icons", columns: int = 24, split: str | None = None) -> Path:
    """Write a PNG with one row of samples a class: training in green frames, validation in blue, test in red.

    Args:
        out: the PNG file.
        data_set: a built-in data set.
        columns: most samples of a class; each drawing is shown once, taken evenly over the class.
        split: show this split only.

    Raises:
        DataError: the data set cannot be built, or ``out`` cannot be written.
    """
    import pyarrow.parquet as parquet
    from PIL import Image, ImageDraw, ImageFont

    table = parquet.read_table(built(data_set), columns=["path", "image", "label", "split", "drawing"]).to_pylist()
    rows: dict[str, dict[str, dict]] = {}
    for row in table:
        if split in (None, row["split"]):
            rows.setdefault(row["label"], {}).setdefault(row["path"].partition("@")[0], row)
    height = _CELL + _NAME_HEIGHT
    sheet = Image.new("RGB", (columns * _CELL, max(1, len(rows)) * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, (label, found) in enumerate(rows.items()):
        top = number * height
        draw.text((3, top + 1), f"{label}  ({len(found)} drawings)", fill="black", font=font)
        chosen = list(found.values())
        step = max(1.0, len(chosen) / columns)
        for column in range(min(columns, len(chosen))):
            row = chosen[int(column * step)]
            corner = (column * _CELL, top + _NAME_HEIGHT)
            draw.rectangle(
                (*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), outline=_FRAME[row["split"]], width=2
            )
            sheet.paste(Image.open(io.BytesIO(row["image"])), (corner[0] + 2, corner[1] + 2))
    try:
        sheet.save(out, format="PNG")
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error}.") from None
    return Path(out)
