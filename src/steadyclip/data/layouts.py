"""The forms of a data source: folders ``class/image``, the split files of CoOp, and tables."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from steadyclip.core.errors import DataError, nearest
from steadyclip.core.words import counted
from steadyclip.data.decode import IMAGE_SUFFIXES
from steadyclip.data.images import FileStore, ParquetStore, row_key
from steadyclip.data.listing import SPLIT_NAMES, SPLITS, Entry, Listing, check_files, path_key
from steadyclip.data.prompts import DEFAULT_TEMPLATE, resolve_templates, templates_for
from steadyclip.data.tables import Table, first_text, text_of

ZHOU = "split_zhou_"
"""Start of the names of CoOp's split files."""

SPLIT_FILES = "https://github.com/KaiyangZhou/CoOp/blob/main/DATASETS.md"
"""Where the field's split files and ImageNet's class names are linked."""

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
"""Endings of what has to be extracted."""

_OPTIONAL = ("split", "domain", "caption", "group")
_AGAIN = f"Take it from {SPLIT_FILES}."


def read_folder(root: Path) -> Listing:
    """A folder ``class/image``; above the classes may be splits, domains (the same classes in each), or one folder that
    holds all; below them, splits. Nothing is opened, only listed.

    Raises:
        DataError: no class folders, an empty class, or folders that could be read in two ways.
    """
    name, notes = root.resolve().name, list[str]()
    while len(inside := folders_in(root)) == 1 and not (_loose(root) or split_of(inside[0].name)):
        if len(folders_in(inside[0])) < 2:
            break
        notes.append(f"{root.name} holds one folder only: the classes are those in {inside[0].name}/")
        root = inside[0]
    if not inside:
        loose = len(_loose(root))
        found = f"{counted(loose, 'image')} but no class folders" if loose else "neither images nor class folders"
        found += "".join(f", but {name} lies there: extract it" for name in archives_in(root)[:1])
        raise DataError(f"{root} holds {found}: expected {root.name}/CLASS/IMAGE.jpg, or a CSV file as --data.")
    splits = [folder for folder in inside if split_of(folder.name) and folders_in(folder)]
    if splits:
        _refuse_mixed(root, inside, splits)
    parts: list[tuple[Path | None, list[Path]]] = [(split, folders_in(split)) for split in splits] or [(None, inside)]
    entries: list[Entry] = []
    deep: list[str] = []
    others: list[str] = [file for folder in (root, *splits) for file in _files(folder) if not file.endswith(ARCHIVES)]
    for folder in (item for at in (root, *splits) for item in sorted(at.iterdir()) if item.is_dir()):
        if folder.name.startswith((".", "__")):
            others += sorted(f"{folder.name}/{name}" for _, _, files in os.walk(folder) for name in files)
    for split, folders in parts:
        for folder, domain, below in _class_folders(root, folders):
            images, ignored = _images_in(root, folder)
            others += ignored
            part = below or (split_of(split.name) if split else None)
            label = folder.parent.name if below else folder.name
            where = f"folder {folder.relative_to(root).as_posix()}"
            entries += [Entry(key, label, part, where, domain) for key in images]
            deep += [key for key in images if Path(key).parent != folder.relative_to(root)]
    if deep:
        notes.append(
            f"{counted(len(deep), 'image')} in folders below those of the classes, such as {deep[0]}: counted for the "
            "class above"
        )
    if domains := list(dict.fromkeys(entry.domain for entry in entries if entry.domain)):
        notes.append(f"{', '.join(domains)} hold the same folders: these are read as domains of the same classes")
    return Listing(name, entries, FileStore(root), (DEFAULT_TEMPLATE,), notes=[*notes, *_not_read(root, others)])


def read_zhou(path: Path) -> Listing:
    """The split file of one of CoOp's data sets, with its images in the same folder or one below.

    Keys are the paths of the split file. Class numbers are its labels, and the template is the data set's own.

    Raises:
        DataError: not such a file, a label with two names, or images that are not there.
    """
    entries, classes = zhou_entries(path)
    sample = entries[:: max(1, len(entries) // 50)]
    candidates = [path.parent, *folders_in(path.parent)]
    # os.path takes a name that is too long as one that is not there
    root = max(candidates, key=lambda folder: sum(os.path.isfile(folder / entry.key) for entry in sample))
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
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): it is cut off or another file. {_AGAIN}") from None
    if not isinstance(split, dict) or not {"train", "test"} <= split.keys():
        has = sorted(split) if isinstance(split, dict) else type(split).__name__
        must = "must hold train, val and test lists of [path, label, class name]"
        raise DataError(f"{path} {must}; it has {has}. {_AGAIN}")
    entries: list[Entry] = []
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for part in SPLITS:
        rows = split.get(part, [])
        if not isinstance(rows, list):
            raise DataError(f"{path}: {part} must be a list of [path, label, class name]. {_AGAIN}")
        for row, item in enumerate(rows):
            where = f"{path.name} {part}[{row}]"
            kinds = [type(value) for value in item] if isinstance(item, list) else None
            if kinds != [str, int, str]:
                raise DataError(
                    f"{where}: expected [path, label, class name], found {str(item)[:80]}. Mend the split file."
                )
            key, label, name = item
            if "\0" in key:
                raise DataError(f"{where}: {key!r} cannot be a path. Mend the split file.")
            if names.setdefault(label, name) != name:
                raise DataError(
                    f"{where}: label {label} is {name!r} here and {names[label]!r} before. Mend the split file."
                )
            if labels.setdefault(name, label) != label:
                raise DataError(
                    f"{where}: labels {labels[name]} and {label} are both {name!r}. Rename one in the split file."
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


def split_of(folder: str) -> str | None:
    """The split that a folder of that name holds: train, ``Testing``, ``val_set``, ...; None for others."""
    return SPLIT_NAMES.get(re.sub(r"[ _-]?(set|data|images)$", "", folder.lower()))


def _class_folders(root: Path, folders: Sequence[Path]) -> Iterator[tuple[Path, str | None, str | None]]:
    """The class folders that ``folders`` are or hold, each with its domain, and with its split if that is below it."""
    inside = {folder: folders_in(folder) for folder in folders}
    loose = [f"{folder.relative_to(root).as_posix()}/{name}" for folder in folders for name in _loose(folder)[:1]]
    names = [{sub.name for sub in subs} for subs in inside.values()]
    every, common = set[str]().union(*names), set.intersection(*names)
    splits, domains = all(map(split_of, every)), len(folders) > 1 and len(common) > 1 and common == every
    if loose and all(names) and (splits or domains):
        raise DataError(
            f"{root}: {loose[0]} lies beside folders that all folders have, such as {min(every)}: move it into one of "
            "them, or out."
        )
    if all(names) and splits:
        yield from ((sub, None, split_of(sub.name)) for subs in inside.values() for sub in subs)
    elif all(names) and domains:
        yield from ((sub, folder.name, None) for folder, subs in inside.items() for sub in subs)
    elif len(folders) > 1 and all(names) and common and not loose:
        one, other = folders[0].relative_to(root).as_posix(), next(iter(sorted(common)))
        raise DataError(
            f"{root}: {one}/{other} can be class {folders[0].name!r} or class {other!r} in the domain "
            f"{folders[0].name!r}: not all folders hold the same. Make them the same, or give a CSV file with path, "
            "label and domain as --data."
        )
    else:
        yield from ((folder, None, None) for folder in folders)


def _images_in(root: Path, folder: Path) -> tuple[list[str], list[str]]:
    """The images in ``folder`` and below it, and the other files, as sorted paths relative to ``root``."""
    images: list[str] = []
    others: list[str] = []
    for parent, below, files in os.walk(folder):  # links to folders are not followed: they may lead in a circle
        others += [Path(parent, name).relative_to(root).as_posix() for name in below if Path(parent, name).is_symlink()]
        for name in files:
            key = Path(parent, name).relative_to(root)
            hidden = any(part.startswith(".") for part in key.parts)
            (images if is_image(name) and not hidden else others).append(key.as_posix())
    if not images:
        also = f" (it has {_kinds(others)})" if others else ""
        raise DataError(f"{folder} holds no images{also}: add some (jpg, png, webp, ...), or remove the folder.")
    return sorted(images), sorted(others)


def _files(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir() if not item.is_dir())


def _loose(folder: Path) -> list[str]:
    """The images in ``folder`` itself."""
    return [name for name in _files(folder) if is_image(name)]


def _not_read(root: Path, others: Sequence[str]) -> list[str]:
    """The note on files that are not read."""
    if not others:
        return []
    return [
        f"{counted(len(others), 'file')} of {root.name} {'is' if len(others) == 1 else 'are'} not read: "
        f"{_kinds(others)}, for instance {others[0]}; if these are "
        "images, convert them to JPEG or PNG"
    ]


def _kinds(files: Iterable[str]) -> str:
    """How many files of which kinds, such as "20 .heic, 3 without an ending, 1 hidden"."""

    def kind(file: str) -> str:
        if any(part.startswith((".", "__")) for part in Path(file).parts):
            return "hidden"
        suffix = os.path.splitext(file)[1].lower()
        return f"{suffix} not in a class folder" if suffix in IMAGE_SUFFIXES else suffix or "without an ending"

    return ", ".join(f"{count} {kind}" for kind, count in Counter(map(kind, files)).most_common(5))


def _refuse_mixed(root: Path, classes: list[Path], splits: list[Path]) -> None:
    names = ", ".join(folder.name for folder in splits)
    if others := [folder.name for folder in classes if folder not in splits]:
        raise DataError(
            f"{root} holds split folders ({names}) beside others ({', '.join(others[:5])}): move the others out, or "
            "put every class below train, val and test."
        )
    for split, count in Counter(split_of(folder.name) for folder in splits).items():
        if count > 1:
            raise DataError(f"{root} holds the {split} split twice ({names}): keep one of them.")


class _About(msgspec.Struct):
    name: str | None = None
    templates: str | list[str] | None = None
    classes: list[str] | None = None


def read_manifest(path: Path, image_column: str = "path", label_column: str = "label") -> Listing:
    """A table with a path (relative to the file) and a label a row; optional split, domain, caption and group.

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
    inner = f"{images}.path" if images and not key_column and table.has_path(images) else None
    for name in table.columns:
        if name not in _OPTIONAL and name.casefold() in _OPTIONAL:
            raise DataError(f"{path} has a column {name!r}, which is not read: call it {name.casefold()!r}.")
    wanted = dict.fromkeys((key_column, inner, label_column, *_OPTIONAL))
    columns = [name for name in wanted if name and (name in table.columns or name == inner)]
    names = table.class_names(label_column)
    if names and (twice := next((name for name in names if names.count(name) > 1), None)):
        raise DataError(f"{path}: the metadata have two classes {twice!r}. Rename one.")
    entries: list[Entry] = []
    own: list[str] = []
    several = 0
    for number, row in table.rows(columns):
        where = f"{path.name} row {number}"
        key = _key(where, row[key_column], None if images else path.parent) if key_column else row_key(number)
        own += [((images and row[images]) or {}).get("path") or ""] if inner else []
        caption, more = first_text(row.get("caption"), where, "caption")
        several += more
        entries.append(_entry(where, row, key, _label(where, row[label_column], label_column, names), caption))
    notes = []
    if several:
        notes.append(f"{counted(several, 'image', 'has', 'have')} several captions: the first of each is taken")
    if groups := {entry.group for entry in entries if entry.group}:
        notes.append(f"column group: intervals draw the images of each of its {len(groups)} groups together")
    if inner and all(own) and len(set(own)) == len(own):  # the names that the images had as files
        key_column, entries = inner, [entry._replace(key=key) for entry, key in zip(entries, own, strict=True)]
    if not images:
        check_files(path.parent, entries, "Mend the path, or remove the row.")
    store = ParquetStore(path.absolute(), images, key_column) if images else FileStore(path.parent)
    try:
        about = msgspec.convert(table.about, _About)
    except msgspec.ValidationError as error:
        raise DataError(f"{path}: its metadata 'steadyclip': {error}. Write it without them.") from None
    classes = tuple(about.classes) if about.classes else None
    if names:
        used = {entry.label for entry in entries}
        classes = tuple(name for name in names if name in used)
        if unused := [name for name in names if name not in used]:
            notes.append(f"{len(unused)} of the {len(names)} class names in the metadata have no image")
    templates = resolve_templates(about.templates or DEFAULT_TEMPLATE)
    return Listing(about.name or path.stem, entries, store, templates, classes, notes)


def _key(where: str, value: Any, root: Path | None) -> str:
    """The path in a row as a key: POSIX, relative to the table's folder ``root`` wherever that is possible."""
    text = text_of(value, where, "the path")
    if not text:
        raise DataError(f"{where}: the path is empty. Fill it in, or remove the row.")
    return text if root is None else path_key(text, root)


def _label(where: str, value: Any, column: str, names: Sequence[str] | None) -> str:
    """The class name in a cell; a number among ``names`` where the file has them."""
    if names is None:
        label = text_of(value, where, column)
        if not label:
            raise DataError(f"{where}: the label is empty. Fill it in, or remove the row.")
        return label
    if type(value) is not int or not 0 <= value < len(names):
        raise DataError(f"{where}: {column} is {value!r}, and the metadata name the classes 0 to {len(names) - 1}.")
    return names[value]


def _entry(where: str, row: Mapping[str, Any], key: str, label: str, caption: str) -> Entry:
    split, domain, group = (text_of(row.get(name), where, name) for name in ("split", "domain", "group"))
    if split and split.lower() not in SPLIT_NAMES:
        raise DataError(f"{where}: unknown split {split!r}: one of train, val, test.{nearest(split, SPLIT_NAMES)}")
    return Entry(key, label, SPLIT_NAMES.get(split.lower()), where, domain or None, caption or None, group or None)
