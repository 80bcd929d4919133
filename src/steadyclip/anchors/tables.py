"""Parquet files that say what they are: rows for any reader, and what they were made from as JSON in the schema."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"steadyclip"
"""The key of the schema metadata under which the JSON stands, as in the tables of ``steadyclip.data``."""


def read_table(path: Path, columns: Iterable[str], what: str, remedy: str) -> tuple[pa.Table, dict[str, Any]]:
    """The ``columns`` of a parquet file, and what its metadata says about it (empty if nothing).

    Args:
        path: the file.
        columns: names that must be there; others are not read.
        what: what the file is, for errors ("a captions file").
        remedy: how to make one, for errors.

    Raises:
        DataError: no such file, not parquet, or without one of the columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise DataError(f"{path}: there is no such file. {remedy}")
    try:
        schema = parquet.read_schema(path)
        missing = [name for name in columns if name not in schema.names]
        if missing:
            raise DataError(
                f"{path} is not {what}: it has no column {missing[0]!r}, but {', '.join(schema.names)}."
                f"{nearest(missing[0], schema.names)} {remedy}"
            )
        return parquet.read_table(path, columns=list(columns)), about(schema)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path} cannot be read as parquet: {' '.join(str(error).split())}") from None


def about(schema: pa.Schema) -> dict[str, Any]:
    """What a file's metadata says about it."""
    return json.loads((schema.metadata or {}).get(METADATA, b"{}"))


def write_table(path: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema, about: Mapping[str, Any]) -> None:
    """Write ``batches`` one after the other, with ``about`` in the metadata; the same bytes for the same content.

    Raises:
        DataError: the file cannot be written; what was at ``path`` before is untouched.
    """
    import pyarrow.parquet as parquet

    schema = schema.with_metadata({METADATA: json.dumps(about, ensure_ascii=False)})
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="none") as writer:
        for batch in batches:  # images do not compress further, and the bytes do not depend on a codec's version
            writer.write_batch(batch.cast(schema))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a file beside ``path`` that takes its place in one step, unless something is raised.

    Raises:
        DataError: the folder or the disk does not allow it.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
