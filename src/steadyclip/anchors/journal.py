"""Work that goes on after a kill: a file that grows by a line for each batch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from steadyclip.core.files import writing

T = TypeVar("T")


class Journal(Generic[T]):
    """Batches of ``kind``, a checksum and a line of JSON each, in the file ``path``."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self.decoder = path, msgspec.json.Decoder(kind)

    def __iter__(self) -> Iterator[T]:
        """The batches so far. At the end, half a line that a killed process left is cut off: read before you append."""
        if not self.path.exists():
            return
        with writing(self.path), open(self.path, "rb+") as file:
            whole = 0
            for line in file:
                sum_, _, content = line.partition(b" ")
                if sum_ != _sum(content):
                    break
                try:
                    batch = self.decoder.decode(content)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    break
                if not line.endswith(b"\n"):
                    break
                yield batch
                whole += len(line)
            file.truncate(whole)

    def append(self, batch: T) -> None:
        """Raises ``SteadyClipError`` where the file cannot be written; what was written before is good."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                line = msgspec.json.encode(batch) + b"\n"
                file.write(_sum(line) + b" " + line)


def _sum(line: bytes) -> bytes:
    return b"%08x" % zlib.crc32(line)
