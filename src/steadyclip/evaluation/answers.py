"""The answer to every test image: which class was named, and how sure the model was. One parquet file beside a record.

Records keep counts, and which images were right; this file says which images these are, so that two evaluations can be
compared image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.errors import DataError
from steadyclip.core.files import replacing

_COLUMNS = ("path", "label", "predicted", "score", "correct")


@dataclass(frozen=True)
class Answers:
    """The answers to the N test images that could be read, in their order.

    Attributes:
        path: each image's key, relative to its data.
        label: its class.
        predicted: the class that was named.
        score: softmax probability of that class, among the classes that were scored.
        correct: whether that is its class. Two classes may have one name, so that names alone do not say.
    """

    path: tuple[str, ...]
    label: tuple[str, ...]
    predicted: tuple[str, ...]
    score: tuple[float, ...]
    correct: tuple[bool, ...]

    def __len__(self) -> int:
        return len(self.path)

    def write(self, path: str | Path) -> Path:
        """Write a parquet file in one step."""
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.table({name: list(getattr(self, name)) for name in _COLUMNS})
        with replacing(Path(path)) as temporary:
            parquet.write_table(table, temporary)
        return Path(path)

    @classmethod
    def read(cls, path: str | Path) -> Answers:
        """The answers in a file that ``write`` wrote.

        Raises:
            DataError: not there, no parquet file, or without these columns.
        """
        from pyarrow import ArrowException, parquet

        try:
            table = parquet.ParquetFile(path).read(columns=list(_COLUMNS))
            return cls(**{name: tuple(table.column(name).to_pylist()) for name in _COLUMNS})
        except (OSError, ArrowException, KeyError) as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(f"{path} does not hold the answers of an evaluation ({why}): evaluate again.") from None
