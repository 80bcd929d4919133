"""Tables of images: with paths, or parquet with the encoded images themselves."""

from __future__ import annotations

import contextlib
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.images import FileStore, ParquetStore, row_key
from steadyclip.data.listing import SPLIT_NAMES, Entry, Listing, check_files
from steadyclip.data.prompts import DEFAULT_TEMPLATE
from steadyclip.data.tables import Table

_OPTIONAL = ("split", "domain", "caption")


def read_manifest(path: Path, image_column: str = "path", label_column: str = "label") -> Listing:
    """A table with a path (relative to the file) and a label a row; optional split, domain and caption.

    A parquet file may hold the encoded images in a binary column (``image``). Then ``path`` is a unique key that need
    not be a file. Its metadata may carry, under the key "steadyclip", JSON with "name", "templates" and "classes" (the
    labels in their order).

    Raises:
        DataError: not a table; a needed column is not there; a row without label, with an unknown split or a missing
            file.
    """
    table = Table.open(path)
    candidates = (image_column, "image") if image_column == "path" else (image_column,)
    images = next((name for name in candidates if table.holds_bytes(name)), None)
    table.need(images or image_column, remedy="Rename it, or name it with image_column.")
    table.need(label_column, remedy="Rename it, or name it with label_column.")
    key_column = image_column
    if images:
        key_column = "path" if "path" in table.columns and not table.holds_bytes("path") else None
    wanted = [name for name in dict.fromkeys((key_column, label_column, *_OPTIONAL)) if name in table.columns]
    entries = []
    for number, row in table.rows(wanted):
        where = f"{path.name} row {number}"
        key = _key(where, row[key_column] if key_column else row_key(number), None if images else path.parent)
        entries.append(_entry(where, row, key, label_column))
    if not images:
        check_files(path.parent, entries, "Mend the path, or remove the row.")
    store = ParquetStore(path.absolute(), images, key_column) if images else FileStore(path.parent)
    classes = tuple(table.about["classes"]) if "classes" in table.about else None
    templates = tuple(table.about.get("templates", (DEFAULT_TEMPLATE,)))
    return Listing(table.about.get("name", path.stem), entries, store, templates, classes)


def _key(where: str, value: Any, root: Path | None) -> str:
    """The path in a row as a key: POSIX, relative to the table's folder ``root`` wherever that is possible."""
    text = str(value or "").strip()
    if not text:
        raise DataError(f"{where}: the path is empty. Fill it in, or remove the row.")
    if root is None:
        return text
    if os.path.isabs(text):
        with contextlib.suppress(ValueError):  # on another drive
            text = os.path.relpath(text, os.path.abspath(root))
    return posixpath.normpath(text.replace("\\", "/"))


def _entry(where: str, row: Mapping[str, Any], key: str, label_column: str) -> Entry:
    label = row[label_column]
    if label is None or not str(label).strip():
        raise DataError(f"{where}: the label is empty. Fill it in, or remove the row.")
    text = {name: str(row[name]).strip() for name in _OPTIONAL if row.get(name) not in (None, "")}
    split = text.get("split", "")
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: unknown split {split!r}: one of train, val, test.{nearest(split, SPLIT_NAMES)}")
    domain = text.get("domain") or None
    return Entry(key, str(label), SPLIT_NAMES.get(split.lower()), where, domain, text.get("caption"))
