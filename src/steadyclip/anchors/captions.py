"""Captions of fine-tune images: made once by a captioner, kept in a file, read by trainings.

The file is parquet, a row an image: ``path`` (its key in the image set), ``caption``, ``captioner`` and ``decoding``
(JSON); what it was made from stands in the schema metadata.
"""

from __future__ import annotations

from pathlib import Path

from steadyclip.anchors.tables import read_table
from steadyclip.errors import DataError

COLUMNS = ("path", "caption", "captioner", "decoding")
REMEDY = "Make one with `steadyclip anchors caption`, or write the columns path and caption yourself."


def read_captions(path: str | Path) -> dict[str, str]:
    """Key of the image -> its caption. Only the columns ``path`` and ``caption`` need be there.

    Raises:
        DataError: no such file, not a captions file, an empty caption, or two for one image.
    """
    path = Path(path)
    table, _ = read_table(path, COLUMNS[:2], "a captions file", REMEDY)
    captions: dict[str, str] = {}
    columns = (table.column(name).to_pylist() for name in COLUMNS[:2])
    for number, (key, caption) in enumerate(zip(*columns, strict=True), start=1):
        if not isinstance(key, str) or not isinstance(caption, str) or not caption.strip():
            raise DataError(f"{path} row {number}: path and caption must be texts, not {key!r} and {caption!r}.")
        if key in captions:
            raise DataError(f"{path} row {number}: a second caption for {key}. Remove one of them.")
        captions[key] = caption
    return captions
