"""The search of a pool as work that processes share: a result for each unit, on disk, until the anchor file is whole.

OUT.parts/queries-HASH.safetensors, UNIT-KEY.safetensors, locks/UNIT.lock. KEY is a hash of everything that decides a
result: with other settings it has another name, and nothing is overwritten.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save

from steadyclip.anchors.engines import How, run
from steadyclip.anchors.pool import Pool
from steadyclip.anchors.search import UNIT_ROWS, Found, Queries, Unit, distinct, merge, search_unit, units
from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic
from steadyclip.data.tables import Table

_SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class UnitSearch:
    """Work by names of units, see ``engines.Work``.

    Attributes:
        pool: the pool's folder.
        queries: file of the queries.
        out: the anchor file that will be made of the results.
        about: JSON of what the anchor file will say of itself.
        k: rows for each query.
        unit_rows: as for ``units``.
        device: where torch compares.
    """

    pool: Path
    queries: Path
    out: Path
    about: str
    k: int
    unit_rows: int = UNIT_ROWS
    device: str = "cpu"

    @property
    def logs(self) -> Path:
        return self.queries.parent / "logs"

    def lock(self, name: str) -> Path:
        return self.queries.parent / "locks" / f"{name}.lock"

    def done(self, name: str) -> bool:
        try:  # opening compares the header with the length of the file, and reads nothing else: it is asked often
            with safe_open(self._file(name), "pt") as tensors:
                return {*tensors.keys()} == {*Found._fields}
        except (SafetensorError, OSError):
            return self.made()

    def made(self) -> bool:
        """The anchor file is there, made of these results."""
        return is_made(self.out, json.loads(self.about))

    def result(self, name: str) -> Found | None:
        """What was found in a unit; None where it has not been searched, or its file is damaged."""
        file = self._file(name)
        try:
            tensors = load(file.read_bytes()) if file.is_file() else {}
            return Found(tensors["scores"], tensors["rows"]) if tensors else None
        except (SafetensorError, KeyError, OSError):
            return None

    def read(self, name: str) -> Found:
        """What was found in a unit. Raises ``DataError`` where it is not there any more."""
        found = self.result(name)
        if found is None:
            raise DataError(f"{self._file(name)} cannot be read any more: the same command makes it again.")
        return found

    def __call__(self, name: str) -> None:
        found = search_unit(self.units[name], read_queries(self.queries), self.k, self.device)
        write_atomic(self._file(name), save(found._asdict()))

    @property
    def units(self) -> dict[str, Unit]:
        return _units(self.pool, self.unit_rows)

    def _file(self, name: str) -> Path:
        facts = [_SCHEMA, self.queries.name, self.k, self.units[name].hash]
        key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
        return self.queries.parent / f"{name}-{key}.safetensors"


@functools.lru_cache(maxsize=4)
def _units(pool: Path, rows: int) -> dict[str, Unit]:
    return {unit.name: unit for unit in units(Pool.open(pool), rows)}


def write_queries(queries: Queries, folder: Path) -> Path:
    """The queries as a file that every process reads."""
    path = folder / f"queries-{queries.hash}.safetensors"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"wanted": ",".join(queries.wanted), "near": json.dumps(queries.near_duplicate)}
        write_atomic(path, save({kind: queries.features[kind].contiguous() for kind in queries.kinds}, facts))
    return path


@functools.lru_cache(maxsize=1)
def read_queries(path: Path) -> Queries:
    """What ``write_queries`` wrote, without the names."""
    with safe_open(path, "pt") as file:
        facts = file.metadata()
        features = {kind: file.get_tensor(kind) for kind in file.keys()}  # noqa: SIM118
    return Queries(features, tuple(facts["wanted"].split(",")), json.loads(facts["near"]))


def find(
    pool: Pool,
    queries: Queries,
    k: int,
    out: Path,
    about: Mapping[str, Any],
    *,
    how: How | None = None,
    unlike: float | None = None,
    spare: int | None = None,
    unit_rows: int = UNIT_ROWS,
    device: str = "cpu",
    log: Callable[[str], None] = print,
) -> Found | None:
    """The best ``k`` rows of the pool for each query, by an engine; what was searched before is not searched again.

    Args:
        pool: where to look.
        queries: what to look for.
        k: rows for each query.
        out: the anchor file; results of units are kept beside it.
        about: what it will say of itself.
        how: the engine.
        unlike: leave out what has a larger image cosine with a better row; None leaves none out.
        spare: candidates beyond ``k`` for that; by default as many again, and at least 8.
        unit_rows: rows of a unit.
        device: where torch compares.
        log: takes lines for people.

    Returns:
        The rows, or None where another process has made the anchor file of them already.

    Raises:
        DataError: a unit could not be searched; the others are kept.
    """
    more = 0 if unlike is None else max(8, k) if spare is None else spare
    wanted = min(len(pool), k + more)
    work = UnitSearch(
        pool.path.resolve(), write_queries(queries, parts_folder(out)).resolve(), out.resolve(), json.dumps(about),
        wanted, unit_rows, device,
    )  # fmt: skip
    names = list(work.units)
    if failed := run(work, names, how, log):
        name, reason = next(iter(failed.items()))
        raise DataError(
            f"{len(failed)} of {len(names)} units of the pool could not be searched; the others are kept, and the same "
            f"command goes on with them. {name}: {reason}"
        )
    if work.made():
        return None
    try:
        found = merge(((work.units[name].first, work.read(name)) for name in names), wanted)
    except DataError:
        if work.made():  # meanwhile, and its results were removed
            return None
        raise
    if unlike is None:
        return found
    whole = Unit(pool, tuple(pool.manifest.parts), 0)
    kept = distinct(found, lambda rows: whole.features(rows, ("image",))["image"], k, unlike)
    if short := int((kept.rows < 0).any(dim=1).sum()):
        log(f"{short} of {len(queries)} images have fewer than {k} pairs that differ: more --spare finds more")
    return kept


def is_made(out: Path, about: Mapping[str, Any]) -> bool:
    """Whether the anchor file is there, and says this of itself."""
    try:
        return out.is_file() and Table.open(out, "").about == about
    except DataError:
        return False


def parts_folder(out: Path) -> Path:
    """Where results of units are kept until the anchor file is whole."""
    return out.with_name(f"{out.name}.parts")
