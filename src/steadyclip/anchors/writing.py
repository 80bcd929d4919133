"""The files of one part of a pool while they grow: features, and a journal of the pairs that they belong to.

After each batch its features are appended first, then its lines to the journal, closed by one that counts them.
Whatever follows the last such line is cut off when another run takes the part up.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from steadyclip.anchors.pool import KINDS
from steadyclip.anchors.tables import write_table
from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic

JOURNAL = "rows.jsonl"
ROWS = ("key", "text", "place", "size", "digest")
"""Columns of ``rows.parquet``: ``place`` and ``size`` find the image again, ``digest`` tells if it is the same."""


class PartWriter:
    """The files of a part, taken up after its last whole batch. ``next`` is the row of the source to go on with."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width, self.next, self.rows = folder, width, 0, 0
        self.arrays = [folder / f"{kind}.npy" for kind in KINDS]
        self.journal = folder / JOURNAL

    def __enter__(self) -> PartWriter:
        """Raises ``DataError`` where the files cannot be written."""
        with self._told(), contextlib.ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            for path in (*self.arrays, self.journal):
                path.touch()
            end = self._last_whole_batch()
            self.files = [stack.enter_context(open(path, "rb+")) for path in self.arrays]
            self.lines = stack.enter_context(open(self.journal, "rb+"))
            for file in self.files:
                file.truncate(self._header(file, self.rows) + self.rows * self.width * 4)
                file.seek(0, 2)
            self.lines.truncate(end)
            self.lines.seek(0, 2)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def add(self, features: Sequence[np.ndarray], lines: list[dict[str, Any]]) -> None:
        """One batch; features in the order of ``KINDS``, none where no pair could be read."""
        self.next += len(lines)
        self.rows += len(features[0]) if features else 0
        with self._told():  # when the disk is full, what was written before is good
            for file, array in zip(self.files, features, strict=False):
                file.write(np.ascontiguousarray(array, "<f4").data)
                file.flush()
            counted = [*lines, {"next": self.next, "rows": self.rows}]
            self.lines.write("".join(json.dumps(line) + "\n" for line in counted).encode())
            self.lines.flush()

    def finish(self, name: str) -> None:
        """Sizes into the headers, the journal into a table; ``part.json`` last, as it says that the part is done."""
        import pyarrow as pa

        for file in self.files:
            self._header(file, self.rows)
            file.flush()
        lines = [json.loads(line) for line in self.journal.read_bytes().splitlines()]
        rows, skipped = [line for line in lines if "text" in line], [line for line in lines if "reason" in line]
        kinds = {name: pa.int64() if name in ("place", "size") else pa.string() for name in ROWS}
        schema = pa.schema(list(kinds.items()))
        write_table(self.folder / "rows.parquet", [pa.RecordBatch.from_pylist(rows, schema)], schema, {})
        digest = hashlib.sha256(json.dumps([[r["key"], r["text"], r["digest"]] for r in rows]).encode())
        about = {
            "name": name, "folder": self.folder.name, "rows": len(rows), "hash": digest.hexdigest()[:16],
            "skipped": [[line["key"], line["reason"]] for line in skipped],
        }  # fmt: skip
        write_atomic(self.folder / "part.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
        self.journal.unlink()

    def _last_whole_batch(self) -> int:
        """Sets ``next`` and ``rows``; returns where the journal is to be cut off."""
        stored = min((path.stat().st_size for path in self.arrays), default=0)
        end, position, header = 0, 0, self._header(io.BytesIO(), 0)
        with open(self.journal, "rb") as journal:
            for line in journal:
                position += len(line)
                with contextlib.suppress(ValueError):
                    about = json.loads(line)
                    if "next" in about and line.endswith(b"\n") and header + about["rows"] * self.width * 4 <= stored:
                        end, self.next, self.rows = position, about["next"], about["rows"]
        return end

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write {self.folder}: {error.strerror or error}.") from error

    def _header(self, file: BinaryIO, rows: int) -> int:
        """Returns its length, which is always the same: numpy leaves room for the number of rows to grow."""
        file.seek(0)
        about = {"descr": "<f4", "fortran_order": False, "shape": (rows, self.width)}
        np.lib.format.write_array_header_1_0(file, about)
        return file.tell()


def finished_part(folder: Path) -> dict[str, Any] | None:
    """What a finished part says of itself; None of another."""
    file = folder / "part.json"
    return json.loads(file.read_bytes()) if file.is_file() else None
