"""Tables of images: a CSV file, or parquet with paths or the encoded images themselves."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.images import FileStore, ParquetStore, Store, row_key
from steadyclip.data.listing import SPLIT_NAMES, Entry, Listing, check_files
from steadyclip.data.prompts import DEFAULT_TEMPLATE

OPTIONAL = ("split", "domain", "caption")


def read_csv(path: Path, image_column: str = "path", label_column: str = "label") -> Listing:
    """A CSV file with a path (relative to the file) and a label a row, optional split, domain and caption.

    Semicolons and tabs are taken as separators where the header has them instead of commas.

    Raises:
        DataError: a needed column is not there; a row without label, with an unknown split or a missing file.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=header.count)
            reader = csv.reader(file, delimiter=delimiter)
            columns = [name.strip() for name in next(reader, [])]
            _need(path, columns, image_column, label_column)
            rows = []
            for number, values in enumerate(reader, start=2):
                if not any(values):
                    continue
                if len(values) != len(columns):
                    raise DataError(
                        f"{path.name} row {number} has {len(values)} fields, the header {len(columns)}: quote fields "
                        f"that hold {delimiter!r}."
                    )
                rows.append((f"{path.name} row {number}", dict(zip(columns, values, strict=True))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 CSV: {error}") from None
    entries = [_entry(where, row, _key(where, row[image_column], path.parent), label_column) for where, row in rows]
    check_files(path.parent, entries, "Mend the path, or remove the row.")
    return Listing(path.stem, entries, FileStore(path.parent), (DEFAULT_TEMPLATE,))


def read_parquet(path: Path, image_column: str = "path", label_column: str = "label") -> Listing:
    """A parquet file: as ``read_csv``, or with the encoded images in a binary column (``image``).

    With such a column, ``path`` is a unique key that need not be a file. The file's own metadata may carry, under
    the key "steadyclip", JSON with "name", "templates" and "classes" (the labels in their order).

    Raises:
        DataError: as ``read_csv``, or not a parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        schema = parquet.read_schema(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None

    def binary(name: str) -> bool:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and pa.types.is_struct(kind):  # as Hugging Face data sets write images
            return kind.get_field_index("bytes") >= 0
        return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    images = image_column if binary(image_column) else "image" if image_column == "path" and binary("image") else None
    _need(path, schema.names, images or image_column, label_column)
    key_column = ("path" if "path" in schema.names and not binary("path") else None) if images else image_column
    wanted = [name for name in dict.fromkeys((key_column, label_column, *OPTIONAL)) if name in schema.names]
    table = parquet.read_table(path, columns=wanted)
    entries = []
    for number, row in enumerate(table.to_pylist(), start=1):
        where = f"{path.name} row {number}"
        key = row[key_column] if key_column else row_key(number)
        entries.append(_entry(where, row, _key(where, key, None if images else path.parent), label_column))
    if images:
        store: Store = ParquetStore(path.absolute(), images, key_column)
    else:
        check_files(path.parent, entries, "Mend the path, or remove the row.")
        store = FileStore(path.parent)
    about = json.loads((schema.metadata or {}).get(b"steadyclip", b"{}"))
    classes = tuple(about["classes"]) if "classes" in about else None
    templates = tuple(about.get("templates", (DEFAULT_TEMPLATE,)))
    return Listing(about.get("name", path.stem), entries, store, templates, classes)


def _need(path: Path, columns: list[str], *needed: str) -> None:
    for name in needed:
        if name not in columns:
            flag = "label_column" if name == needed[-1] else "image_column"
            raise DataError(
                f"{path} has no column {name!r}; it has {', '.join(columns) or 'none'}.{nearest(name, columns)} "
                f"Rename it, or name it with {flag}."
            )


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
    text = {name: str(row[name]).strip() for name in OPTIONAL if row.get(name) not in (None, "")}
    split = text.get("split") or None
    if split is not None and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: unknown split {split!r}: one of train, val, test.{nearest(split, SPLIT_NAMES)}")
    return Entry(
        key,
        str(label),
        SPLIT_NAMES[split.lower()] if split else None,
        where,
        text.get("domain") or None,
        text.get("caption"),
    )
