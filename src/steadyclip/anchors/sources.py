"""Where a pool's pairs come from: tables with images or paths in them, and tar shards. Read in order, never unpacked.

Each file is cut into parts, the unit of work of one process. A part has a ``path``; a ``name``, unique in the pool;
``rows(start)``, its pairs from number ``start`` on; ``fetch(places)``, retrieved images at sorted (place, size); and
``share(place)``, how much of it is done once the pair at ``place`` is, in [0, 1].
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from steadyclip.core.errors import DataError
from steadyclip.core.files import expanded, text_of_path
from steadyclip.core.progress import warn
from steadyclip.core.words import counted
from steadyclip.data.decode import IMAGE_SUFFIXES, UnreadableImage
from steadyclip.data.images import FileStore, image_bytes, row_key
from steadyclip.data.listing import path_key
from steadyclip.data.tables import PARQUET, TEXT, Table, first_text, text_of

TEXT_COLUMNS = ("text", "caption", "txt")
IMAGE_COLUMNS = ("image", "path", "jpg", "png", "webp")
"""The last three are those of img2dataset, whose column `status` says why an image is missing."""
KEY_COLUMNS = ("path", "key", "__key__")
TARS = (".tar", ".tar.gz", ".tgz")
MAX_TEXT, MAX_IMAGE = 4 * 2**20, 256 * 2**20
"""Bytes of a file in a shard above which it is passed over, unread."""
BROKEN = "the shard is broken here"
"""Why the pairs behind some place of a shard are left out."""
PART_ROWS = 65_536
"""Pairs of a table that one process takes at a time; a tar shard is always one part."""


class Row(NamedTuple):
    """One pair as it is found. ``load`` gives the encoded image and may raise ``UnreadableImage``.

    ``place`` and ``size`` are what the part needs to fetch the image again.
    """

    key: str
    text: str
    load: Callable[[], bytes]
    place: int
    size: int = 0


@dataclass(frozen=True)
class TablePart:
    """Rows ``first`` to ``last`` of a table whose column ``image`` holds the images, or paths; these begin in ``root``,
    by default where the table is."""

    path: Path
    name: str
    table: Table
    image: str
    text: str
    key: str | None
    first: int
    last: int
    prefix: str
    status: str | None = None
    root: Path | None = None

    def rows(self, start: int) -> Iterator[Row]:
        columns = [name for name in dict.fromkeys((self.image, self.text, self.key, self.status)) if name]
        rows = self.table.rows(columns, self.first + start, self.last)
        several = 0
        for place, (number, row) in enumerate(rows, start=self.first + start):
            where = f"{self.path.name} row {number}"
            key = text_of(row[self.key], where, self.key) if self.key else row_key(place + 1)
            if self.key == self.image:  # paths
                key = path_key(key, self.root or self.path.parent)
            text, more = first_text(row[self.text], where, self.text)
            several += more
            load = self._load(key, row[self.image])
            if row[self.image] is None and self.status:
                load = partial(_refuse, key, f"no image ({row[self.status]})")
            yield Row(self.prefix + key, text, load, place)
        _tell(several, self.name)

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        wanted = {place for place, _ in places}
        rows = self.table.rows([self.image], min(wanted), max(wanted) + 1)
        for place, (_, row) in enumerate(rows, start=min(wanted)):
            if place in wanted:
                yield self._load(row_key(place + 1), row[self.image])()

    def share(self, place: int) -> float:
        return (place + 1 - self.first) / (self.last - self.first)

    def _load(self, key: str, image: Any) -> Callable[[], bytes]:
        if self.table.holds_bytes(self.image):
            return partial(image_bytes, image, key)
        root = self.root or self.path.parent
        return partial(FileStore(root).read, path_key(text_of(image, key, self.image), root))


@dataclass(frozen=True)
class TarPart:
    """A webdataset-style shard: members that share a name up to its first dot are one sample.

    The text is in ``.txt``, or under ``text_column`` in ``.json``. The shard is read as a stream, compressed or not.
    """

    path: Path
    name: str
    text_column: str | None

    def rows(self, start: int) -> Iterator[Row]:
        samples, several = itertools.groupby(self._members(), key=lambda member: member[0]), 0
        for sample, members in itertools.islice(samples, start, None):
            found = {suffix: (content, place) for _, suffix, content, place in members}
            key = f"{self.name}/{sample}"
            try:
                text, more = self._text(found, key)
            except DataError as error:
                yield Row(key, "-", partial(_refuse, key, str(error).removeprefix(f"{key}: ")), 0)
                continue
            several += more
            yield self._row(key, text, found)
        _tell(several, self.name)

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with tarfile.open(self.path, "r:*") as tar:  # seeks in a plain shard, unpacks forward in a compressed one
            for place, size in places:
                member = tarfile.TarInfo()
                member.offset_data, member.size = place, size
                yield _content(tar, member)

    def share(self, place: int) -> float:
        return min(1.0, (place + 1) / self.path.stat().st_size)

    def _members(self) -> Iterator[tuple[str, str, bytes, int]]:
        """Sample, suffix, content and place of each file; a broken shard ends with one without suffix: why it is."""
        sample = "the start"
        try:
            with tarfile.open(self.path, "r|*", tarinfo=_Strict) as tar:
                for member in tar:
                    inside = PurePosixPath(member.name)
                    stem, _, suffix = inside.name.partition(".")
                    if member.isfile() and stem:
                        sample, kind = text_of_path(str(inside.parent / stem)), f".{suffix.lower()}"
                        if member.size > (most := MAX_IMAGE if kind in IMAGE_SUFFIXES else MAX_TEXT):
                            reason = f"its {kind} has {member.size:,} bytes, more than the {most:,} that are read"
                            yield sample, "", reason.encode(), 0
                        elif kind in IMAGE_SUFFIXES or kind in (".txt", ".json"):
                            yield sample, kind, _content(tar, member), member.offset_data
                        else:
                            yield sample, kind, b"", 0
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            yield f"after {sample}", "", f"{BROKEN} ({reason})".encode(), 0

    def _row(self, key: str, text: str, members: Mapping[str, tuple[bytes, int]]) -> Row:
        for suffix, (image, place) in members.items():
            if "" not in members and suffix in IMAGE_SUFFIXES:
                return Row(key, text, partial(image_bytes, image, key), place, len(image))
        reason, _ = members.get("", (b"no image in the sample", 0))
        return Row(key, text, partial(_refuse, key, reason.decode()), 0)

    def _text(self, members: Mapping[str, tuple[bytes, int]], key: str) -> tuple[str, bool]:
        if ".json" in members and (self.text_column or ".txt" not in members):
            try:
                about = json.loads(members[".json"][0])
            except ValueError:
                about = None
            if not isinstance(about, dict):
                raise DataError(f"{key}: its .json is no JSON object")
            names = (self.text_column,) if self.text_column else TEXT_COLUMNS
            name = next((name for name in names if about.get(name)), "")
            return first_text(about.get(name), key, name)
        return members.get(".txt", (b"", 0))[0].decode("utf-8", "replace"), False


class _Strict(tarfile.TarInfo):
    """Headers of a shard, where a damaged or a missing one is an error: tarfile takes either for the end."""

    @classmethod
    def fromtarfile(cls, tar: Any) -> tarfile.TarInfo:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().fromtarfile(tar)
        except tarfile.InvalidHeaderError as error:  # pyright: ignore[reportAttributeAccessIssue]
            raise tarfile.ReadError(str(error)) from None
        except tarfile.EmptyHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
            raise tarfile.ReadError("it was cut off") from None


Part = TablePart | TarPart


def find_parts(
    sources: Iterable[str | Path],
    text_column: str | None = None,
    part_rows: int = PART_ROWS,
    failed: dict[str, str] | None = None,
) -> list[Part]:
    """The parts of a pool, in a stable order.

    Args:
        sources: tables (``.parquet`` with the images or paths, ``.csv``, ``.tsv`` with paths), tar shards, or
            folders: of shards, of parquet files, or of images with one table of paths and texts.
        text_column: column (or key of a shard's ``.json``) of the texts; by default ``text``, then ``caption``.
        part_rows: pairs of a table in one part.
        failed: takes what cannot be used, file or folder -> reason, and the rest is given; by default it is an error.

    Raises:
        DataError: a source is not there, of no known kind, or without a needed column; a shard that img2dataset has
            finished is not there.
    """
    files: list[Path] = []
    for source in sources:
        with noting(str(source), failed):
            files += _files(expanded(source), failed)
    for name, count in Counter(file.name for file in files).items():
        if count > 1:
            raise DataError(f"two sources of the pool are named {name}: rename one of them.")
    parts: list[Part] = []
    for file in files:
        if file.name.lower().endswith(TARS):
            parts.append(TarPart(file, text_of_path(file.name), text_column))
        else:
            with noting(str(file), failed):
                parts.extend(
                    _table_parts(file, text_column, part_rows, f"{text_of_path(file.name)}/" if len(files) > 1 else "")
                )
    return parts


@contextlib.contextmanager
def noting(name: str, failed: dict[str, str] | None) -> Iterator[None]:
    """What is wrong inside goes to ``failed``, if there is one."""
    try:
        yield
    except DataError as error:
        if failed is None:
            raise
        failed[name] = str(error)


def _files(source: Path, failed: dict[str, str] | None) -> list[Path]:
    """The tables or shards that ``source`` is or holds; where a folder holds shards, its tables are none."""
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder.")
    inside = sorted(source.iterdir()) if source.is_dir() else [source]
    files = [path.absolute() for path in inside if path.is_file()]
    shards = [path for path in files if path.name.lower().endswith(TARS)]
    tables = [path for path in files if path.suffix.lower() in (*TEXT, *PARQUET)]
    if not shards and not tables:
        raise DataError(
            f"{source} is no source of pairs: give a table with path and text (.csv, or .parquet, also with images), "
            "a .tar shard, or a folder of them."
        )
    whole = [path for path in shards if path.with_name(f"{path.name.partition('.')[0]}_stats.json").is_file()]
    if whole and (unfinished := [path.name for path in shards if path not in whole]):
        named = ", ".join(unfinished[:3])
        warn(f"{source}: {counted(len(unfinished), 'shard')} without _stats.json, so not finished; left out: {named}")
        shards = whole
    if whole:  # what img2dataset says of a shard stays when the shard is lost
        there = {path.name.partition(".")[0] for path in shards}
        for path in files:
            stem, _, rest = path.name.partition("_stats.")
            if rest == "json" and stem not in there:
                shard = path.with_name(f"{stem}.tar")
                with noting(str(shard), failed):
                    raise DataError(f"{shard}: there is no such file, but {path.name} says that it was made.")
    if not shards and len(tables) > 1 and any(path.suffix.lower() in TEXT for path in tables):
        names = ", ".join(table.name for table in tables[:3])
        raise DataError(f"{source} holds several tables ({names}): name the one to read.")
    return shards or tables


def _table_parts(path: Path, text_column: str | None, part_rows: int, prefix: str) -> Iterator[TablePart]:
    table = Table.open(path)

    def first_of(*names: str) -> str | None:
        return next((name for name in names if name in table.columns), None)

    texts = (text_column,) if text_column else TEXT_COLUMNS
    text, image = first_of(*texts) or texts[0], first_of(*IMAGE_COLUMNS) or "image"
    table.need(text, remedy="Rename one, or name another with --text-column.")
    table.need(image, remedy="Rename one.")
    rows = len(table)
    if not rows:
        raise DataError(f"{path} has no rows.")
    for first in range(0, rows, part_rows):
        last = min(rows, first + part_rows)
        yield TablePart(
            path, f"{text_of_path(path.name)}:{first}", table, image, text, first_of(*KEY_COLUMNS), first, last, prefix,
            first_of("status"),
        )  # fmt: skip


def _tell(several: int, name: str) -> None:
    if several:
        warn(f"{name}: {counted(several, 'pair', 'has', 'have')} several texts, and the first of each is taken")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""


def _refuse(key: str, reason: str) -> bytes:
    raise UnreadableImage(key, reason)
