"""A pool of image-text pairs whose features were computed once: reading it. ``embed_pool`` makes one.

A folder: ``manifest.json`` (weights, transform, sources, data hashes) and a folder for each part of the sources with
``image.npy`` and ``text.npy`` (float32 of length 1, memory-mapped), and ``rows.parquet`` (the columns ``ROWS``).
Images stay where they are and are fetched from there.

Shapes: N pairs, D feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from steadyclip.anchors.sources import Part, find_parts
from steadyclip.core.errors import DataError
from steadyclip.data.tables import Table

if TYPE_CHECKING:
    from torch import Tensor

    from steadyclip.models import DualEncoder

KINDS = ("image", "text")
MANIFEST = "manifest.json"
SCHEMA = 1
ROWS = ("key", "text", "place", "size", "digest")
"""``place`` and ``size`` find the image again, ``digest`` tells if it is the same."""


class PoolPair(NamedTuple):
    """Pair number ``row`` of the pool; ``image`` is the encoded image."""

    row: int
    key: str
    text: str
    image: bytes


@dataclass(frozen=True)
class Pool:
    """Features of N pairs, and the way back to the pairs."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Pool:
        """The finished pool in the folder ``path``; nothing large is read.

        Raises:
            DataError: there is no pool, it is not finished, or a file of it is missing or cut off.
        """
        path = Path(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise DataError(f"{path} holds no pool: make one with `steadyclip anchors embed`.")
        if not manifest["complete"]:
            raise DataError(f"the pool in {path} is not finished: the same `steadyclip anchors embed` goes on with it.")
        pool = cls(path, manifest)
        for kind in KINDS:
            pool.features(kind)
        return pool

    def __len__(self) -> int:
        return sum(part["rows"] for part in self.manifest["parts"])

    @property
    def hash(self) -> str:
        """16 hex digits over the pairs, weights and transform."""
        parts = [part["hash"] for part in self.manifest["parts"]]
        text = json.dumps([self.manifest["weights"], self.manifest["preprocess"], parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, model: DualEncoder) -> None:
        """See that the features are those of ``model``.

        Raises:
            DataError: they are of other weights or of another transform.
        """
        for what, mine in {"weights": model.weights_hash, "preprocess": repr(model.preprocess)}.items():
            if self.manifest[what] != mine:
                raise DataError(
                    f"the pool in {self.path} was embedded with other {what} ({self.manifest['model']}, "
                    f"{self.manifest['weights']}) than those of {model.name} ({model.weights_hash}): name that model, "
                    "or embed the pool again into another folder."
                )

    def features(self, kind: str) -> list[np.ndarray]:
        """Memory-mapped (N, D) features, one array for each part.

        Raises:
            DataError: a file is missing, cut off, or of another shape.
        """
        arrays = []
        for part in self.manifest["parts"]:
            file, shape = self.path / part["folder"] / f"{kind}.npy", (part["rows"], self.manifest["width"])
            try:  # "c": as good as read-only, but torch takes it without a copy; what is empty cannot be mapped
                arrays.append(np.load(file, mmap_mode="c" if part["rows"] else None))
            except (OSError, ValueError) as error:
                raise DataError(f"{file} cannot be read ({error}): delete the pool and embed it again.") from None
            if arrays[-1].shape != shape:
                raise DataError(f"{file} is {arrays[-1].shape}, not {shape}: delete the pool and embed it again.")
        return arrays

    def chunks(self, kinds: Sequence[str], size: int) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """First row and features (at most ``size``, D) of each kind, over the whole pool."""
        import torch

        first = 0
        for arrays in zip(*(self.features(kind) for kind in kinds), strict=True):
            for begin in range(0, len(arrays[0]), size):
                parts = (torch.from_numpy(np.asarray(array[begin : begin + size])) for array in arrays)
                yield first + begin, dict(zip(kinds, parts, strict=True))
            first += len(arrays[0])

    def take(self, kind: str, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) features of single rows."""
        arrays, part = self.features(kind), np.searchsorted(self._first, rows, side="right") - 1
        return np.stack([arrays[p][row - self._first[p]] for p, row in zip(part, rows, strict=True)])

    @cached_property
    def _first(self) -> np.ndarray:
        """The first row of each part."""
        return np.cumsum([0, *(part["rows"] for part in self.manifest["parts"][:-1])])

    def pairs(self, rows: Sequence[int], source: str | Path | None = None) -> Iterator[PoolPair]:
        """The pairs at ``rows``, which must be sorted; each file is read once, from front to back.

        Args:
            rows: numbers in the pool.
            source: a folder that the files of the sources have been moved to.

        Raises:
            DataError: a source is not there any more, or has changed since it was embedded.
        """
        parts = self._parts(source) if rows else {}
        for entry, first in zip(self.manifest["parts"], self._first.tolist(), strict=True):
            inside = [row - first for row in rows if first <= row < first + entry["rows"]]
            if not inside:
                continue
            part, table = parts[entry["name"]], Table.open(self.path / entry["folder"] / "rows.parquet")
            found = table.arrow(ROWS).take(inside).to_pylist()
            try:
                images = part.fetch([(pair["place"], pair["size"]) for pair in found])
                for row, pair, image in zip(inside, found, images, strict=True):
                    if hashlib.sha256(image).hexdigest()[:16] != pair["digest"]:
                        raise DataError(
                            f"{part.path} has changed since it was embedded ({pair['key']} is another image): put the "
                            "old file back, or embed the pool again."
                        )
                    yield PoolPair(first + row, pair["key"], pair["text"], image)
            except (OSError, ValueError) as error:
                raise DataError(f"{part.path} cannot be read any more: {error or type(error).__name__}.") from None

    def _parts(self, source: str | Path | None) -> dict[str, Part]:
        settings = self.manifest["sources"]
        files = [Path(source) / Path(file).name for file in settings["files"]] if source else settings["files"]
        found = {part.name: part for part in find_parts(files, settings["text_column"], settings["part_rows"])}
        if gone := next((entry["name"] for entry in self.manifest["parts"] if entry["name"] not in found), None):
            raise DataError(
                f"the sources of the pool in {self.path} have changed: there is no part {gone} any more. "
                "Put the old files back, or embed the pool again."
            )
        return found


def read_manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of the pool in ``path``, None if there is none.

    Raises:
        DataError: it is not one of a pool.
    """
    file = path / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_bytes())
        if manifest["schema"] != SCHEMA or not isinstance(manifest["parts"], list):
            raise ValueError("of another version")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no manifest of a pool ({error}).") from None
    return manifest


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What stands differently in two manifests, in words; empty if nothing that matters does."""
    told = [
        f"{name} {old.get(name)!r} instead of {new[name]!r}"
        for name in ("model", "weights", "preprocess", "width", "batch_size")
        if old.get(name) != new[name]
    ]
    before, now = ({**manifest["sources"], **manifest["sources"]["files"]} for manifest in (old, new))
    changed = sorted(name for name in (before.keys() | now.keys()) - {"files"} if before.get(name) != now.get(name))
    if changed:
        others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        told.append(f"other sources ({changed[0]}{others})")
    return ", ".join(told)
