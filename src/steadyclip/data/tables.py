"""Tables of rows: CSV, TSV and parquet, read strictly and in one way; and parquet files that say what they are."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import DataError, SteadyClipError, nearest
from steadyclip.core.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET, TEXT = (".parquet", ".pq"), (".csv", ".tsv")
_ABOUT = b"steadyclip"
_LONG = ("text", "caption")
"""Columns of a text file whose fields may go on over lines."""
_ROWS = 256
"""Rows of a parquet file in memory at a time: some hold images."""


@dataclass(frozen=True)
class Table:
    """A table whose rows are read when they are asked for; ``schema`` is that of a parquet file."""

    path: Path
    columns: tuple[str, ...]
    schema: pa.Schema | None = None
    delimiter: str = ","

    @classmethod
    def open(cls, path: Path, remedy: str = "") -> Table:
        """The table in ``path``. CSV may have semicolons or tabs as separators, where its header has more of them.

        Raises:
            DataError: no such file (``remedy`` says how to make one), or not of its kind.
        """
        if not path.is_file():
            raise DataError(f"{path}: there is no such file. {remedy}".strip())
        with _reading(path):
            if path.suffix.lower() not in TEXT:
                import pyarrow.parquet as parquet

                schema = parquet.read_schema(path)
                return cls(path, _distinct(path, schema.names), schema)
            with open(path, newline="", encoding="utf-8-sig") as file:
                header = file.readline()
                delimiter = max(",;\t", key=header.count)
                names = next(csv.reader(itertools.chain([header], file), delimiter=delimiter), [])
                return cls(path, _distinct(path, [name.strip() for name in names]), delimiter=delimiter)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What the metadata of a parquet file says it was made from.

        Raises:
            DataError: another program's metadata stand under that name.
        """
        try:
            about = json.loads(((self.schema and self.schema.metadata) or {}).get(_ABOUT, b"{}"))
        except (ValueError, RecursionError):
            about = None
        if not isinstance(about, dict):
            raise DataError(f"{self.path}: its metadata {_ABOUT.decode()!r} are no JSON object: write it without them.")
        return about

    def class_names(self, column: str) -> tuple[str, ...] | None:
        """The names of the numbers in ``column``, where the metadata of Hugging Face `datasets` say that it is a
        ``ClassLabel``."""
        try:
            about = json.loads(((self.schema and self.schema.metadata) or {})[b"huggingface"])
            names = about["info"]["features"][column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return None
        return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    def need(self, *columns: str, remedy: str, what: str = "") -> None:
        """See that it has all ``columns``.

        Raises:
            DataError: one is missing, so that it is not ``what`` ("a captions file"); ``remedy`` says what to do.
        """
        for name in columns:
            if name not in self.columns:
                raise DataError(
                    f"{self.path} {f'is not {what}: it ' if what else ''}has no column {name!r}; it has "
                    f"{', '.join(self.columns) or 'none'}.{nearest(name, self.columns)} {remedy}"
                )

    def holds_bytes(self, column: str) -> bool:
        """Whether ``column`` holds encoded images: bytes, or what Hugging Face data sets make of images."""
        if self.schema is None or column not in self.columns:
            return False
        import pyarrow.types as types

        kind = self.schema.field(column).type
        if types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return types.is_binary(kind) or types.is_large_binary(kind)

    def has_path(self, column: str) -> bool:
        """Whether the images in ``column`` have their file names beside their bytes."""
        import pyarrow.types as types

        kind = self.schema.field(column).type if self.schema is not None else None
        return kind is not None and types.is_struct(kind) and kind.get_field_index("path") >= 0

    def __len__(self) -> int:
        """Rows in all."""
        if self.schema is None:
            return sum(1 for _ in self.rows())
        import pyarrow.parquet as parquet

        with _reading(self.path):
            return parquet.read_metadata(self.path).num_rows

    def arrow(self, columns: Sequence[str]) -> pa.Table:
        """The ``columns`` of a parquet file, wholly in memory. Raises ``DataError`` when they cannot be read."""
        import pyarrow.parquet as parquet

        with _reading(self.path):
            return parquet.read_table(self.path, columns=list(columns), page_checksum_verification=True)

    def rows(
        self, columns: Sequence[str] | None = None, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Rows ``first`` to ``last`` with the number of each as people count it: a CSV file's header is row 1.

        Args:
            columns: those of a parquet file to read; by default all.
            first: position, from 0; blank rows of a CSV file do not count.
            last: position behind the last.

        Raises:
            DataError: the file breaks off, or a row has not as many fields as the header.
        """
        with _reading(self.path):
            yield from self._text(first, last) if self.schema is None else self._parquet(columns, first, last)

    def _text(self, first: int, last: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
        with open(self.path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file, delimiter=self.delimiter, strict=True)
            numbered = enumerate(self._unbroken(lines), start=1)
            filled = (row for row in itertools.islice(numbered, 1, None) if any(row[1]))
            for number, values in itertools.islice(filled, first, last):
                for name, value in zip(self.columns, values, strict=False):
                    if "\n" in value and name not in _LONG:
                        raise DataError(f"{self.path.name} row {number}: {name} goes on over lines: close its quote.")
                if len(values) != len(self.columns):
                    raise DataError(
                        f"{self.path.name} row {number} has {len(values)} fields, the header {len(self.columns)}: "
                        f"quote fields that hold {self.delimiter!r}."
                    )
                yield number, dict(zip(self.columns, values, strict=True))

    def _unbroken(self, lines: Any) -> Iterator[list[str]]:
        try:
            yield from lines
        except csv.Error as error:
            raise DataError(f"{self.path.name} line {lines.line_num}: {error}. Look at the quotes there.") from None

    def _parquet(
        self, columns: Sequence[str] | None, first: int, last: int | None
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(self.path, page_checksum_verification=True) as file:
            last, at = file.metadata.num_rows if last is None else last, 0
            for group in range(file.num_row_groups):
                end = at + file.metadata.row_group(group).num_rows
                if end <= first or at >= last:  # row groups before and behind are not read
                    at = end
                    continue
                for batch in file.iter_batches(_ROWS, [group], columns, use_threads=False):
                    skip = min(max(0, first - at), batch.num_rows)
                    wanted = batch.slice(skip, max(0, last - at - skip))
                    yield from enumerate(wanted.to_pylist(), start=at + skip + 1)
                    at += batch.num_rows


def write_table(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, about: Mapping[str, Any]) -> None:
    """Write ``batches`` one after the other, with ``about`` in the metadata; the same bytes for the same content.

    Raises:
        SteadyClipError: the file cannot be written; what was at ``path`` before is untouched.
    """
    import pyarrow.parquet as parquet

    schema = schema.with_metadata({_ABOUT: json.dumps(about, ensure_ascii=False)})
    # images do not compress further, and the bytes do not depend on a codec's version
    options: dict[str, Any] = {"compression": "none", "write_page_checksum": True}
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, **options) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(schema))


def text_of(value: Any, where: str, column: str) -> str:
    """A cell as text, less blanks around it; "" for an empty one. Whole numbers and UTF-8 bytes are texts too.

    Raises:
        DataError: a list, a structure, a date, a truth value, or a number with a fraction; it names ``where`` ("a.csv
            row 7") and ``column``.
    """
    if value is None:
        return ""
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            raise DataError(f"{where}: {column} holds bytes that are no UTF-8 text.") from None
    if isinstance(value, float) and value.is_integer():  # a column with gaps
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        kinds = {list: "a list", dict: "a structure", bool: "true or false", float: "a number with a fraction"}
        kind = kinds.get(type(value), f"of the type {type(value).__name__}")
        raise DataError(f"{where}: {column} is {kind} ({str(value)[:60]}); one text is needed.")
    return str(value).strip()


def first_text(value: Any, where: str, column: str) -> tuple[str, bool]:
    """As ``text_of``, but of a list its first text that is not empty, and whether there are more."""
    values = value if isinstance(value, list) else [value]
    texts = [text for text in (text_of(each, where, column) for each in values) if text]
    return texts[0] if texts else "", len(texts) > 1


def _distinct(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise DataError(f"{path} has two columns {twice!r}: rename or remove one.")
    return tuple(names)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except SteadyClipError:
        raise
    except Exception as error:  # pyarrow's are of many kinds: ValueError, NotImplementedError, OverflowError, ...
        kind = "UTF-8 CSV" if path.suffix.lower() in TEXT else "parquet"
        what = " ".join(str(error).split())[:300] or type(error).__name__
        raise DataError(f"{path} cannot be read as {kind}: {what}") from error
