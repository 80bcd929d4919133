"""Where a pool's pairs come from: tables with images or paths in them, and tar shards. Read in order, never unpacked.

Each file is cut into parts, the unit of work of one process; a part yields its pairs from any position on, and fetches
single images again when they have been retrieved.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple, Protocol

from steadyclip.core.errors import DataError, nearest
from steadyclip.data.decode import IMAGE_SUFFIXES, UnreadableImage
from steadyclip.data.images import FileStore

TEXT_COLUMNS = ("text", "caption")
KEY_COLUMNS = ("path", "key", "__key__")
TABLES = (".csv", ".tsv", ".parquet", ".pq")
TARS = (".tar", ".tar.gz", ".tgz")
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


class Part(Protocol):
    """A stretch of one file."""

    @property
    def path(self) -> Path: ...

    @property
    def name(self) -> str:
        """Unique in the pool; says which rows of which file."""
        ...

    def rows(self, start: int) -> Iterator[Row]:
        """The pairs from number ``start`` of this part on."""
        ...

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The images at (place, size), which must be sorted."""
        ...

    def share(self, place: int) -> float:
        """How much of the part lies before ``place``, in [0, 1]; for progress."""
        ...


@dataclass(frozen=True)
class TablePart:
    """Rows ``first`` to ``last`` of a table whose column ``column`` holds the images, or paths beside the table."""

    path: Path
    column: str
    text_column: str
    key_column: str | None
    first: int
    last: int
    prefix: str

    @property
    def name(self) -> str:
        return f"{self.path.name}:{self.first}"

    def rows(self, start: int) -> Iterator[Row]:
        columns = [name for name in dict.fromkeys((self.column, self.text_column, self.key_column)) if name]
        for number, row in self._read(columns, self.first + start, self.last):
            image, key = row[self.column], row[self.key_column or self.column]
            key = str(key).strip() if self.key_column else f"row-{number + 1:07}"
            yield Row(self.prefix + key, str(row[self.text_column] or ""), self._load(key, image), number)

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        wanted = [place for place, _ in places]
        rows = self._read([self.column], wanted[0], wanted[-1] + 1) if wanted else iter(())
        number, row = -1, {}
        for place in wanted:
            while number < place:
                number, row = next(rows)
            yield self._load(f"row {place + 1}", row[self.column])()

    def share(self, place: int) -> float:
        return (place - self.first) / max(1, self.last - self.first)

    def _load(self, key: str, image: Any) -> Callable[[], bytes]:
        if isinstance(image, str):
            return partial(FileStore(self.path.parent).read, image.strip())
        return partial(_bytes, key, image.get("bytes") if isinstance(image, dict) else image)

    def _read(self, columns: list[str], first: int, last: int) -> Iterator[tuple[int, dict[str, Any]]]:
        if self.path.suffix.lower() not in (".parquet", ".pq"):
            for number, row in enumerate(_csv(self.path)[first:last], start=first):
                yield number, row
            return
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(self.path) as file:
            begin, groups = 0, []
            for group in range(file.num_row_groups):  # leave out what lies before and behind
                end = begin + file.metadata.row_group(group).num_rows
                if begin < last and end > first:
                    groups.append((begin, group))
                begin = end
            if not groups:
                return
            number = groups[0][0]
            for batch in file.iter_batches(256, [group for _, group in groups], columns, use_threads=False):
                if number + batch.num_rows > first:
                    for row in range(max(0, first - number), min(batch.num_rows, last - number)):
                        yield number + row, {name: batch.column(name)[row].as_py() for name in columns}
                number += batch.num_rows


@dataclass(frozen=True)
class TarPart:
    """A webdataset-style shard: members that share a name up to its first dot are one sample.

    The text is in ``.txt``, or under ``text_column`` in ``.json``. The shard is read as a stream, compressed or not.
    """

    path: Path
    text_column: str | None
    TEXTS: ClassVar = (".txt", ".json")

    @property
    def name(self) -> str:
        return self.path.name

    def rows(self, start: int) -> Iterator[Row]:
        sample, members, number, broken = "", {}, 0, ""
        try:
            with tarfile.open(self.path, "r|*") as tar:
                for member in tar:
                    inside = PurePosixPath(member.name)
                    if not member.isfile() or inside.name.startswith("."):
                        continue
                    stem, _, suffix = inside.name.partition(".")
                    key, suffix = str(inside.parent / stem), f".{suffix.lower()}"
                    if key != sample:
                        if sample and number >= start:
                            yield self._row(sample, members)
                        number, sample, members = number + bool(sample), key, {}
                    # before the start, members are passed over without being kept
                    if number >= start and suffix in (*self.TEXTS, *IMAGE_SUFFIXES):
                        file = tar.extractfile(member)
                        members[suffix] = (file.read() if file else b"", member.offset_data)
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            broken = f"the shard is broken here ({' '.join(str(error).split()) or type(error).__name__})"
        if sample:
            if number >= start:
                yield self._row(sample, members)
            number += 1
        if broken and number >= start:  # what was read before stays; the break counts as one more pair, to be reported
            where = f"{self.path.name}/after {sample}" if sample else self.path.name
            yield Row(where, "", partial(_refuse, where, broken), 0)

    def fetch(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        with tarfile.open(self.path, "r:*") as tar:  # seeks in a plain shard, unpacks forward in a compressed one
            for place, size in places:
                member = tarfile.TarInfo()
                member.offset_data, member.size = place, size
                file = tar.extractfile(member)
                yield file.read() if file else b""

    def share(self, place: int) -> float:
        return min(1.0, place / max(1, self.path.stat().st_size))

    def _row(self, sample: str, members: Mapping[str, tuple[bytes, int]]) -> Row:
        key = f"{self.path.name}/{sample}"
        image, place = next((found for suffix, found in members.items() if suffix in IMAGE_SUFFIXES), (None, 0))
        load = partial(_bytes, key, image) if image is not None else partial(_refuse, key, "no image in the sample")
        return Row(key, self._text(members), load, place, len(image or b""))

    def _text(self, members: Mapping[str, tuple[bytes, int]]) -> str:
        if ".json" in members and (self.text_column or ".txt" not in members):
            try:
                about = json.loads(members[".json"][0])
            except ValueError:
                return ""
            names = (self.text_column,) if self.text_column else TEXT_COLUMNS
            return next((str(about[name]) for name in names if about.get(name)), "")
        return members.get(".txt", (b"", 0))[0].decode("utf-8", "replace")


def find_parts(sources: Iterable[str | Path], text_column: str | None = None, part_rows: int = PART_ROWS) -> list[Part]:
    """The parts of a pool, in a stable order.

    Args:
        sources: tables (``.parquet`` with the images or paths, ``.csv``, ``.tsv`` with paths), tar shards, or
            folders: of shards, of parquet files, or of images with one table of paths and texts.
        text_column: column (or key of a shard's ``.json``) of the texts; by default ``text``, then ``caption``.
        part_rows: pairs of a table in one part.

    Raises:
        DataError: a source is not there, of no known kind, or without a needed column.
    """
    files = [file for source in sources for file in _files(Path(source).expanduser())]
    parts: list[Part] = []
    several = len(files) > 1
    for file in files:
        if _is_tar(file):
            parts.append(TarPart(file, text_column))
        else:
            parts.extend(_table_parts(file, text_column, part_rows, f"{file.name}/" if several else ""))
    names = [part.name for part in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise DataError(f"two sources of the pool are named {twice.partition(':')[0]}: rename one of them.")
    return parts


def _files(source: Path) -> list[Path]:
    if source.is_file():
        if _is_tar(source) or source.suffix.lower() in TABLES:
            return [source.absolute()]
        raise DataError(f"{source} is no source of pairs: give a table (.parquet, .csv), a .tar shard or a folder.")
    if not source.is_dir():
        raise DataError(f"{source}: there is no such file or folder.")
    inside = sorted(path.absolute() for path in source.iterdir() if path.is_file())
    shards = [path for path in inside if _is_tar(path)]
    tables = [path for path in inside if path.suffix.lower() in TABLES]
    parquets = [path for path in tables if path.suffix.lower() in (".parquet", ".pq")]
    if shards:
        return shards
    if len(tables) == 1 or (tables and len(parquets) == len(tables)):
        return tables
    if tables:
        raise DataError(
            f"{source} holds several tables ({', '.join(t.name for t in tables[:3])}): name the one to read."
        )
    raise DataError(f"{source} holds neither tar shards nor a table of texts (.csv or .parquet with path and text).")


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith(TARS)


def _table_parts(path: Path, text_column: str | None, part_rows: int, prefix: str) -> Iterator[TablePart]:
    columns, rows = _columns(path)
    if not rows:
        raise DataError(f"{path} has no rows.")
    texts = (text_column,) if text_column else TEXT_COLUMNS
    text = next((name for name in texts if name in columns), None)
    image = next((name for name in ("image", "path") if name in columns), None)
    for found, wanted, flag in ((text, texts[0], " or name another with --text-column"), (image, "image", "")):
        if found is None:
            raise DataError(
                f"{path} has no column {wanted!r}, but {', '.join(columns) or 'none'}.{nearest(wanted, columns)} "
                f"Rename one{flag}."
            )
    assert text is not None
    assert image is not None
    key = next((name for name in KEY_COLUMNS if name in columns), None)
    for first in range(0, rows, part_rows):
        yield TablePart(path, image, text, key, first, min(rows, first + part_rows), prefix)


def _columns(path: Path) -> tuple[list[str], int]:
    """Names of the columns, and the number of rows."""
    if path.suffix.lower() not in (".parquet", ".pq"):
        rows = _csv(path)
        return list(rows[0]) if rows else [], len(rows)
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        with parquet.ParquetFile(path) as file:
            return file.schema_arrow.names, file.metadata.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None


def _csv(path: Path) -> list[dict[str, str]]:
    import csv

    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            return [{k: v or "" for k, v in row.items() if k} for row in csv.DictReader(file, delimiter=delimiter)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as UTF-8 CSV: {error}") from None


def _bytes(key: str, data: bytes | None) -> bytes:
    if data is None:
        raise UnreadableImage(key, "no bytes")
    return data


def _refuse(key: str, reason: str) -> bytes:
    raise UnreadableImage(key, reason)
