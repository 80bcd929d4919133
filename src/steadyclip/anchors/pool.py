"""A pool of image-text pairs whose features were computed once: reading it. ``embed_pool`` makes one.

A folder: ``manifest.json`` (weights, transform, sources, data hashes) and a folder for each part of the sources with
``image.npy`` and ``text.npy`` (float32 of length 1, memory-mapped), and ``rows.parquet`` (``key``, ``text``, ``place``,
``size``, ``digest``). Images stay where they are and are fetched from there.

Shapes: N pairs, D feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from steadyclip.anchors.sources import Part, find_parts
from steadyclip.core.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    from steadyclip.models import DualEncoder

KINDS = ("image", "text")
Kind = Literal["image", "text"]
MANIFEST = "manifest.json"
SCHEMA = 1


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
            for part, features in zip(manifest["parts"], pool.features(kind), strict=True):
                if features.shape != (part["rows"], manifest["width"]):
                    raise DataError(
                        f"{path / part['folder'] / kind}.npy is {features.shape}, not ({part['rows']}, "
                        f"{manifest['width']}): delete the pool and embed it again."
                    )
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
        mine = {"weights": model.weights_hash, "preprocess": repr(model.preprocess)}
        for what, value in mine.items():
            if self.manifest[what] != value:
                raise DataError(
                    f"the pool in {self.path} was embedded with other {what} ({self.manifest['model']}, "
                    f"{self.manifest['weights']}) than those of {model.name} ({model.weights_hash}): name that model, "
                    "or embed the pool again into another folder."
                )

    def features(self, kind: Kind | str) -> list[np.ndarray]:
        """Memory-mapped (N, D) features, one array for each part."""
        arrays = []
        for part in self.manifest["parts"]:
            file = self.path / part["folder"] / f"{kind}.npy"
            try:  # "c": as good as read-only, but torch takes it without a copy
                arrays.append(np.load(file, mmap_mode="c") if part["rows"] else np.load(file))
            except (OSError, ValueError) as error:
                raise DataError(f"{file} cannot be read ({error}): delete the pool and embed it again.") from None
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

    def take(self, kind: Kind, rows: np.ndarray) -> np.ndarray:
        """(len(rows), D) features of single rows."""
        arrays = self.features(kind)
        ends = np.cumsum([len(array) for array in arrays])
        part = np.searchsorted(ends, rows, side="right")
        taken = (arrays[p][row - (ends[p] - len(arrays[p]))] for p, row in zip(part, rows, strict=True))
        return np.stack(list(taken))

    def pairs(self, rows: Sequence[int], source: str | Path | None = None) -> Iterator[PoolPair]:
        """The pairs at ``rows``, which must be sorted; each file is read once, from front to back.

        Args:
            rows: numbers in the pool.
            source: a folder that the files of the sources have been moved to.

        Raises:
            DataError: a source is not there any more, or has changed since it was embedded.
        """
        import pyarrow.parquet as parquet

        first, wanted = 0, list(rows)
        parts = self._parts(source) if wanted else {}
        for entry in self.manifest["parts"]:
            inside = [row - first for row in wanted if first <= row < first + entry["rows"]]
            if inside:
                table = parquet.read_table(self.path / entry["folder"] / "rows.parquet").take(inside)
                columns = [table.column(name).to_pylist() for name in ("key", "text", "place", "size", "digest")]
                pictures = self._fetch(parts[entry["name"]], list(zip(columns[2], columns[3], strict=True)))
                for row, key, text, digest, image in zip(
                    inside, columns[0], columns[1], columns[4], pictures, strict=True
                ):
                    if hashlib.sha256(image).hexdigest()[:16] != digest:
                        raise DataError(
                            f"{parts[entry['name']].path} has changed since it was embedded ({key} is another "
                            "image): put the old file back, or embed the pool again."
                        )
                    yield PoolPair(first + row, key, text, image)
            first += entry["rows"]

    def _parts(self, source: str | Path | None) -> dict[str, Part]:
        settings = self.manifest["sources"]
        files = [Path(source) / Path(file).name for file in settings["files"]] if source else settings["files"]
        parts = find_parts(files, settings["text_column"], settings["part_rows"])
        found = {part.name: part for part in parts}
        gone = next((entry["name"] for entry in self.manifest["parts"] if entry["name"] not in found), None)
        if gone:
            raise DataError(
                f"the sources of the pool in {self.path} have changed: there is no part {gone} any more. "
                "Put the old files back, or embed the pool again."
            )
        return found

    def _fetch(self, part: Part, places: list[tuple[int, int]]) -> Iterator[bytes]:
        try:
            yield from part.fetch(places)
        except (OSError, StopIteration, ValueError) as error:
            raise DataError(f"{part.path} cannot be read any more: {error or type(error).__name__}.") from None


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
