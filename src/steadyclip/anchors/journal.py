"""Work that goes on after a kill: a file that grows by a line for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from steadyclip.core.files import writing

T = TypeVar("T")


class Journal(Generic[T]):
    """Batches of ``kind``, a line of JSON each, in the file ``path``."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self.decoder = path, msgspec.json.Decoder(kind)

    def __iter__(self) -> Iterator[T]:
        """The batches so far. At the end, half a line that a killed process left is cut off: read before you append."""
        if not self.path.exists():
            return
        with writing(self.path), open(self.path, "rb+") as file:
            whole = 0
            for line in file:
                try:
                    batch = self.decoder.decode(line)
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
                file.write(msgspec.json.encode(batch) + b"\n")
