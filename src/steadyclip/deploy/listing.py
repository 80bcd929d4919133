"""Which images a user means: files, folders, patterns, lists, and paths on standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from steadyclip.core.errors import DataError
from steadyclip.core.files import text_of_path
from steadyclip.core.progress import warn
from steadyclip.core.words import counted
from steadyclip.data.layouts import is_image
from steadyclip.data.tables import PARQUET, TEXT, Table, text_of

LISTS = (".txt", *TEXT, *PARQUET)


def find_pictures(words: Sequence[str], *, recursive: bool = True, stdin: TextIO | None = None) -> list[str]:
    """The paths of the images that ``words`` mean, each once, in the order of the words; a folder's are sorted.

    A word is an image, a folder, a pattern such as ``photos/*.jpg``, a list (.txt with a path a line, or a table with
    a column ``path``; relative paths are below the list's folder), or ``-`` for paths on ``stdin``. Paths are as the
    user gave them, with what is below a folder added, and bytes that are no UTF-8 as ``text_of_path`` spells them.
    Whether a file is there and is an image is not looked at here.

    Args:
        recursive: of folders, also the images in the folders below.

    Raises:
        DataError: a folder, pattern or list without an image.
    """
    found: dict[str, None] = {}
    twice = 0
    for word in words:
        for path in map(text_of_path, _of_word(word, recursive, stdin)):
            twice += path in found
            found[path] = None
    if twice:
        warn(f"{counted(twice, 'image', 'is', 'are')} named twice, and taken once")
    return list(found)


def _of_word(word: str, recursive: bool, stdin: TextIO | None) -> Iterable[str]:
    if word == "-" and stdin is not None:
        return _some([line.rstrip("\r\n") for line in stdin if line.strip()], "standard input names no image")
    path = Path(word)
    if path.is_dir():
        return _some(_in_folder(path, recursive), f"{word} holds no images")
    if path.suffix.lower() in LISTS:
        return _some(list(_in_list(path)), f"{word} names no images")
    if not path.exists() and glob.has_magic(word):
        matches = sorted(name for name in glob.glob(word, recursive=True) if Path(name).is_file())
        return _some([name for name in matches if is_image(Path(name).name)], f"no image matches {word}")
    return [word]


def _in_folder(folder: Path, recursive: bool) -> list[str]:
    paths: list[str] = []
    others = 0
    for parent, below, files in os.walk(folder):  # links to folders are not followed: they may lead in a circle
        below[:] = sorted(name for name in below if recursive and not name.startswith("."))
        paths += [Path(parent, name).as_posix() for name in files if is_image(name)]
        others += sum(not is_image(name) for name in files)
    if paths and others:
        warn(f"{counted(others, 'file')} in {folder} left out: the ending is not that of an image")
    return sorted(paths)


def _in_list(file: Path) -> Iterator[str]:
    if file.suffix.lower() == ".txt":
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{file} cannot be read as a list of paths: {error}") from None
        yield from (_below(file, line) for line in lines if line.strip())
        return
    table = Table.open(file)
    table.need("path", remedy="Give the column with the paths of the images that name.")
    for number, row in table.rows(["path"]):
        path = text_of(row["path"], f"{file.name} row {number}", "path")
        if not path:
            raise DataError(f"{file.name} row {number}: the path is empty. Fill it in, or remove the row.")
        yield _below(file, path)


def _below(file: Path, path: str) -> str:
    return path if os.path.isabs(path) else (file.parent / path).as_posix()


def _some(paths: list[str], message: str) -> list[str]:
    if not paths:
        raise DataError(f"{message}.")
    return paths
