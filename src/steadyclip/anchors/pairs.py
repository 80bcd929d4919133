"""The anchor file: for each fine-tune image the pairs that were retrieved for it, images included.

Parquet, a row a pair: the fields of ``Pair``. In the pool's order, not in that of the images.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyclip.core.errors import DataError
from steadyclip.data.tables import Table, write_table

if TYPE_CHECKING:
    import pyarrow as pa

    from steadyclip.data import ImageSet

REMEDY = "Make one with `steadyclip anchors retrieve`."
_ROWS = 256
"""Pairs in a row group: what is held in memory while writing."""


class Pair(NamedTuple):
    """One row of the file: what was retrieved for the fine-tune image with the key ``query``.

    ``rank`` counts from 1; ``similarity`` is NaN for a random pair; ``image`` is encoded, so that a training needs no
    pool; ``digest`` is that of the fine-tune image, as in ``ImageSet.digests``.
    """

    query: str
    rank: int
    similarity: float
    pool_key: str
    text: str
    image: bytes
    digest: str = ""


@dataclasses.dataclass(frozen=True)
class Anchors:
    """The pairs of an anchor file, numbered in its order; images stay encoded.

    ``about`` says what they were made from: pool and weights hash, kind of query, k, threshold of near-duplicates.
    """

    path: Path
    about: dict[str, Any]
    table: pa.Table = dataclasses.field(repr=False)

    def __len__(self) -> int:
        """Pairs in all."""
        return self.table.num_rows

    def __getitem__(self, index: int) -> Pair:
        return Pair(*(self.table.column(name)[index].as_py() for name in Pair._fields))

    def pairs(self, key: str) -> list[tuple[bytes, str]]:
        """(encoded image, text) of each pair of the fine-tune image ``key``, best first. Raises as ``of``."""
        return [(pair.image, pair.text) for pair in self.of(key)]

    def of(self, key: str) -> list[Pair]:
        """The rows of the fine-tune image ``key``, best first.

        Raises:
            DataError: nothing was retrieved for that image.
        """
        if key not in self._rows:
            raise DataError(f"{self.path} has no pairs for {key}: it was made for other images. {REMEDY}")
        return [self[row] for row in self._rows[key]]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The fine-tune images, sorted."""
        return tuple(sorted(self._rows))

    @property
    def digests(self) -> dict[str, str]:
        """Key of the fine-tune image -> its digest."""
        return dict(zip(*(self.table.column(name).to_pylist() for name in ("query", "digest")), strict=True))

    @cached_property
    def distinct(self) -> tuple[int, ...]:
        """Rows at which a pair of the pool occurs for the first time: several images may have retrieved the same."""
        first: dict[str, int] = {}
        for row, pool_key in enumerate(self.table.column("pool_key").to_pylist()):
            first.setdefault(pool_key, row)
        return tuple(first.values())

    def only_for(self, images: ImageSet) -> Anchors:
        """What was retrieved for ``images``: pairs for other images of the data set, which are not trained on, would
        tell something of them.

        Raises:
            DataError: many of the images have no pairs, or were other ones then.
        """
        import pyarrow.compute as compute

        images.refuse_changed(self.digests, str(self.path))

        missing = sorted(set(images.keys) - set(self.keys))
        if len(missing) > images.max_unreadable * len(images):  # a few may have had nothing but near-duplicates
            raise DataError(
                f"{self.path}: nothing was retrieved for {len(missing)} of {len(images)} training images of "
                f"{images.name}, for instance {missing[0]}. Make it anew with `steadyclip anchors retrieve`."
            )
        return dataclasses.replace(self, table=self.table.filter(compute.field("query").isin(images.keys)))

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        columns = (self.table.column(name).to_pylist() for name in ("rank", "query"))
        rows: dict[str, list[int]] = {}
        for _, row, query in sorted((rank, row, query) for row, (rank, query) in enumerate(zip(*columns, strict=True))):
            rows.setdefault(query, []).append(row)
        return rows


def read_anchors(path: str | Path) -> Anchors:
    """The anchors in the file ``path``, wholly in memory.

    Raises:
        DataError: no such file, or not an anchor file, or without any pair.
    """
    table = Table.open(Path(path), REMEDY)
    table.need(*Pair._fields, remedy=REMEDY, what="an anchor file")
    whole = table.arrow(Pair._fields)
    if not whole.num_rows:
        raise DataError(f"{path} holds no pairs. {REMEDY}")
    return Anchors(table.path, table.about, whole)


def write_anchors(path: str | Path, pairs: Iterable[Pair], about: Mapping[str, Any]) -> Anchors:
    """Write an anchor file and read it back; ``pairs`` may come one by one, as few of them are held at a time.

    Raises:
        SteadyClipError: the file cannot be written, or there is no pair.
    """
    rest = iter(pairs)
    groups = iter(lambda: as_table(itertools.islice(rest, _ROWS)), as_table([]))
    write_table(Path(path), (batch for group in groups for batch in group.to_batches()), as_table([]).schema, about)
    return read_anchors(path)


def as_table(pairs: Iterable[Pair]) -> pa.Table:
    """A column for each field of ``Pair``."""
    import pyarrow as pa

    kinds = (pa.string(), pa.int32(), pa.float32(), pa.string(), pa.string(), pa.binary(), pa.string())
    schema = pa.schema(list(zip(Pair._fields, kinds, strict=True)))
    return pa.Table.from_pylist([pair._asdict() for pair in pairs], schema)
