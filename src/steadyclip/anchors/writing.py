"""The files of one part of a pool while they grow.

A journal has a line for each batch, with its features and what became of its pairs. Whatever follows the last whole
line is cut off when another run takes the part up; when all is there, the journal becomes arrays and a table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from steadyclip.anchors.pool import KINDS, ROWS
from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic
from steadyclip.data.tables import write_table

JOURNAL = "rows.jsonl"


class _Batch(msgspec.Struct):
    """A line of the journal. ``features`` are float32 by kind, of those ``pairs`` that have no ``reason``."""

    pairs: list[dict[str, Any]]
    features: dict[str, bytes]


class PartWriter:
    """The files of a part, taken up after its last whole batch. ``next`` is the row of the source to go on with."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width, self.next, self.rows = folder, width, 0, 0
        self.journal = folder / JOURNAL

    def __enter__(self) -> PartWriter:
        """Raises ``DataError`` where the files cannot be written."""
        with self._told():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.file = open(self.journal, "ab+")
            whole = 0
            for batch, end in self._batches():
                self._count(batch)
                whole = end
            self.file.truncate(whole)
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, features: Sequence[np.ndarray], lines: list[dict[str, Any]]) -> None:
        """One batch; features in the order of ``KINDS``, none where no pair could be read."""
        arrays = (np.ascontiguousarray(array, "<f4").tobytes() for array in features)
        batch = _Batch(lines, dict(zip(KINDS, arrays, strict=False)))
        with self._told():  # when the disk is full, what was written before is good
            self.file.write(msgspec.json.encode(batch) + b"\n")
            self.file.flush()
        self._count(batch)

    def finish(self, name: str) -> None:
        """Write the arrays and the table; ``part.json`` last, as it says that the part is done."""
        import pyarrow as pa

        with self._told():
            for kind in KINDS:
                with open(self.folder / f"{kind}.npy", "wb") as file:
                    about = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
                    np.lib.format.write_array_header_1_0(file, about)
                    file.writelines(batch.features.get(kind, b"") for batch, _ in self._batches())
        pairs = [pair for batch, _ in self._batches() for pair in batch.pairs]
        rows = [pair for pair in pairs if "text" in pair]
        schema = pa.schema([(name, pa.int64() if name in ("place", "size") else pa.string()) for name in ROWS])
        write_table(self.folder / "rows.parquet", [pa.RecordBatch.from_pylist(rows, schema)], schema, {})
        digest = hashlib.sha256(json.dumps([[r["key"], r["text"], r["digest"]] for r in rows]).encode())
        about = {"name": name, "folder": self.folder.name, "rows": len(rows), "hash": digest.hexdigest()[:16]}
        about["skipped"] = [[pair["key"], pair["reason"]] for pair in pairs if "reason" in pair]
        write_atomic(self.folder / "part.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
        self.journal.unlink()

    def _count(self, batch: _Batch) -> None:
        self.next += len(batch.pairs)
        self.rows += sum("text" in pair for pair in batch.pairs)

    def _batches(self) -> Iterator[tuple[_Batch, int]]:
        """Each whole batch of the journal, and where it ends."""
        decoder, end = msgspec.json.Decoder(_Batch), 0
        with open(self.journal, "rb") as journal:
            for line in journal:
                end += len(line)
                try:
                    batch = decoder.decode(line)
                except msgspec.DecodeError:
                    return
                if line.endswith(b"\n"):
                    yield batch, end

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write {self.folder}: {error.strerror or error}.") from error


def finished_part(folder: Path) -> dict[str, Any] | None:
    """What a finished part says of itself; None of another."""
    file = folder / "part.json"
    return json.loads(file.read_bytes()) if file.is_file() else None
