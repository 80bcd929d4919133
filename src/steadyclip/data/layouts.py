"""The forms of a data source: folders ``class/image``, the split files of CoOp, and tables."""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.decode import IMAGE_SUFFIXES
from steadyclip.data.images import FileStore, ParquetStore, row_key
from steadyclip.data.listing import SPLIT_NAMES, SPLITS, Entry, Listing, check_files
from steadyclip.data.prompts import DEFAULT_TEMPLATE, templates_for
from steadyclip.data.tables import Table

ZHOU = "split_zhou_"
"""Start of the names of CoOp's split files."""

SPLIT_FILES = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""Where the field's split files and ImageNet's class names are linked."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
"""Endings of what has to be extracted."""

_OPTIONAL = ("split", "domain", "caption")
_AGAIN = f"Take it from {SPLIT_FILES}."


def read_folder(root: Path) -> Listing:
    """A folder ``class/image``, or ``train/class/image`` beside val and test. Nothing is opened, only listed.

    Raises:
        DataError: no class folders, an empty class, or folders that could be splits as well as classes.
    """
    classes = folders_in(root)
    if not classes:
        loose = sum(is_image(item.name) for item in root.iterdir())
        found = f"{loose} images but no class folders" if loose else "neither images nor class folders"
        found += "".join(f", but {name} lies there: extract it" for name in archives_in(root)[:1])
        raise DataError(f"{root} holds {found}: expected {root.name}/CLASS/IMAGE.jpg, or a CSV file as --data.")
    splits = [folder for folder in classes if folder.name.lower() in SPLIT_NAMES and folders_in(folder)]
    if splits:
        _refuse_mixed(root, classes, splits)
        classes = [sub for folder in splits for sub in folders_in(folder)]
    entries = [entry for folder in classes for entry in _class_entries(root, folder, bool(splits))]
    return Listing(root.resolve().name, entries, FileStore(root), (DEFAULT_TEMPLATE,))


def read_zhou(path: Path) -> Listing:
    """The split file of one of CoOp's data sets, with its images in the same folder or one below.

    Keys are the paths of the split file. Class numbers are its labels, and the template is the data set's own.

    Raises:
        DataError: not such a file, a label with two names, or images that are not there.
    """
    entries, classes = zhou_entries(path)
    sample = entries[:: max(1, len(entries) // 50)]
    candidates = [path.parent, *folders_in(path.parent)]
    root = max(candidates, key=lambda folder: sum((folder / entry.key).is_file() for entry in sample))
    check_files(root, entries, "Complete the images, or mend the split file.")
    name = path.stem.removeprefix(ZHOU)
    return Listing(name, entries, FileStore(root), templates_for(name), classes)


def zhou_entries(path: Path) -> tuple[list[Entry], tuple[str, ...]]:
    """What one of CoOp's split files names, whether it is there or not, and the classes in the order of the labels.

    Raises:
        DataError: not such a file, or a label with two names.
    """
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): it is cut off or another file. {_AGAIN}") from None
    if not isinstance(split, dict) or not {"train", "test"} <= split.keys():
        has = sorted(split) if isinstance(split, dict) else type(split).__name__
        must = "must hold train, val and test lists of [path, label, class name]"
        raise DataError(f"{path} {must}; it has {has}. {_AGAIN}")
    entries: list[Entry] = []
    names: dict[int, str] = {}
    for part in SPLITS:
        rows = split.get(part, [])
        if not isinstance(rows, list):
            raise DataError(f"{path}: {part} must be a list of [path, label, class name]. {_AGAIN}")
        for row, item in enumerate(rows):
            where = f"{path.name} {part}[{row}]"
            try:
                key, label, name = item
                key, label, name = str(key), int(label), str(name)
            except (TypeError, ValueError):
                raise DataError(
                    f"{where}: expected [path, label, class name], found {str(item)[:80]}. Mend the split file."
                ) from None
            if names.setdefault(label, name) != name:
                raise DataError(
                    f"{where}: label {label} is {name!r} here and {names[label]!r} before. Mend the split file."
                )
            entries.append(Entry(key, name, part, where))
    return entries, tuple(names[label] for label in sorted(names))


def find_zhou(root: Path) -> Path | None:
    """The one ``split_zhou_*.json`` in ``root``, if any. Raises ``DataError`` when there are several."""
    found = sorted(root.glob(f"{ZHOU}*.json"))
    if len(found) > 1:
        raise DataError(
            f"{root} holds several split files ({', '.join(p.name for p in found)}): name one of them as --data."
        )
    return found[0] if found else None


def folders_in(root: Path) -> list[Path]:
    """The folders in ``root`` by name, less hidden ones."""
    return sorted(
        (p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))), key=lambda p: p.name
    )


def archives_in(root: Path) -> list[str]:
    """The names of the archives in ``root``, in order."""
    return sorted(item.name for item in root.iterdir() if item.name.lower().endswith(ARCHIVES))


def is_image(name: str) -> bool:
    """Whether a file of that name counts as an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _class_entries(root: Path, folder: Path, in_split: bool) -> list[Entry]:
    paths: list[str] = []
    others: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if is_image(name):
                paths.append(Path(parent, name).relative_to(root).as_posix())
            elif not name.startswith("."):
                others[os.path.splitext(name)[1].lower() or name] += 1
    if not paths:
        also = f" (it has {', '.join(f'{n} {kind}' for kind, n in others.most_common(3))})" if others else ""
        raise DataError(f"{folder} holds no images{also}: add some (jpg, png, webp, ...), or remove the folder.")
    where = f"folder {folder.relative_to(root).as_posix()}"
    split = SPLIT_NAMES[folder.parent.name.lower()] if in_split else None
    return [Entry(key, folder.name, split, where) for key in sorted(paths)]


def _refuse_mixed(root: Path, classes: list[Path], splits: list[Path]) -> None:
    names = ", ".join(folder.name for folder in splits)
    if others := [folder.name for folder in classes if folder not in splits]:
        raise DataError(
            f"{root} holds split folders ({names}) beside others ({', '.join(others[:5])}): move the others out, or "
            "put every class below train, val and test."
        )
    for split, count in Counter(SPLIT_NAMES[folder.name.lower()] for folder in splits).items():
        if count > 1:
            raise DataError(f"{root} holds the {split} split twice ({names}): keep one of them.")


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
