"""Work that goes on after a kill: a file that grows by a line for each batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from steadyclip.core.errors import DataError

T = TypeVar("T")


class Journal(Generic[T]):
    """Batches of ``kind``, a line of JSON each. Entering it cuts off what follows the last whole line."""

    def __init__(self, path: Path, kind: type[T]) -> None:
        self.path, self.decoder = path, msgspec.json.Decoder(kind)

    def __enter__(self) -> Journal[T]:
        """Raises ``DataError`` where the file cannot be written."""
        with telling(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = open(self.path, "ab")
            self.file.truncate(sum(len(line) for line, _ in self._whole()))
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def __iter__(self) -> Iterator[T]:
        return (batch for _, batch in self._whole())

    def append(self, batch: T) -> None:
        """Raises ``DataError`` when the disk is full; what was written before is good."""
        with telling(self.path.parent):
            self.file.write(msgspec.json.encode(batch) + b"\n")
            self.file.flush()

    def _whole(self) -> Iterator[tuple[bytes, T]]:
        with open(self.path, "rb") as file:
            for line in file:
                try:
                    batch = self.decoder.decode(line)
                except msgspec.DecodeError:
                    return
                if line.endswith(b"\n"):
                    yield line, batch


@contextmanager
def telling(folder: Path) -> Iterator[None]:
    """Raises ``DataError`` where files in ``folder`` cannot be written."""
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}.") from error
