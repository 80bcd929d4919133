"""The files of one part of a pool while they grow: a journal, which becomes arrays and a table when all is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from steadyclip.anchors.journal import Journal, telling
from steadyclip.anchors.pool import KINDS, ROWS
from steadyclip.core.files import write_atomic
from steadyclip.data.tables import write_table

JOURNAL = "rows.jsonl"


class _Batch(msgspec.Struct):
    """``features`` are float32 by kind, of those ``pairs`` that have no ``reason``."""

    pairs: list[dict[str, Any]]
    features: dict[str, bytes]


class PartWriter:
    """The files of a part, taken up after its last whole batch. ``next`` is the row of the source to go on with."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self.width, self.next = folder, width, 0
        self.journal = Journal(folder / JOURNAL, _Batch)

    def __enter__(self) -> PartWriter:
        """Raises ``DataError`` where the files cannot be written."""
        self.journal.__enter__()
        self.next = sum(len(batch.pairs) for batch in self.journal)
        return self

    def __exit__(self, *_: object) -> None:
        self.journal.__exit__()

    def add(self, features: Sequence[np.ndarray], lines: list[dict[str, Any]]) -> None:
        """One batch; features in the order of ``KINDS``, none where no pair could be read."""
        arrays = (np.ascontiguousarray(array, "<f4").tobytes() for array in features)
        self.journal.append(_Batch(lines, dict(zip(KINDS, arrays, strict=False))))
        self.next += len(lines)

    def finish(self, name: str) -> None:
        """Write the arrays and the table; ``part.json`` last, as it says that the part is done."""
        import pyarrow as pa

        pairs = [pair for batch in self.journal for pair in batch.pairs]
        rows = [pair for pair in pairs if "text" in pair]
        with telling(self.folder):
            for kind in KINDS:
                with open(self.folder / f"{kind}.npy", "wb") as file:
                    header = {"descr": "<f4", "fortran_order": False, "shape": (len(rows), self.width)}
                    np.lib.format.write_array_header_1_0(file, header)
                    file.writelines(batch.features.get(kind, b"") for batch in self.journal)
        schema = pa.schema([(name, pa.int64() if name in ("place", "size") else pa.string()) for name in ROWS])
        write_table(self.folder / "rows.parquet", [pa.RecordBatch.from_pylist(rows, schema)], schema, {})
        digest = hashlib.sha256(json.dumps([[r["key"], r["text"], r["digest"]] for r in rows]).encode())
        about = {"name": name, "folder": self.folder.name, "rows": len(rows), "hash": digest.hexdigest()[:16]}
        about["skipped"] = [[pair["key"], pair["reason"]] for pair in pairs if "reason" in pair]
        write_atomic(self.folder / "part.json", json.dumps(about, indent=1, ensure_ascii=False).encode())
        self.journal.path.unlink()


def finished_part(folder: Path) -> dict[str, Any] | None:
    """What a finished part says of itself; None of another."""
    file = folder / "part.json"
    return json.loads(file.read_bytes()) if file.is_file() else None
