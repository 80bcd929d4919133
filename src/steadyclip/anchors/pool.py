"""A pool of image-text pairs whose features were computed once: reading it. ``embed_pool`` makes one.

A folder: ``manifest.json`` (weights, transform, sources, data hashes) and a folder for each part of the sources with
``image.npy`` and ``text.npy`` (float32 or float16 of length 1, memory-mapped), and ``rows.parquet`` (the columns
``ROWS``). Images stay where they are and are fetched from there. Of a pool that was adopted (``adopt_pool``), features
and texts stay where they are as well, and the folder holds the manifest alone.

Shapes: N pairs, D feature width.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from steadyclip.anchors.sources import BROKEN, Part, TablePart, find_parts
from steadyclip.core.errors import DataError
from steadyclip.core.files import file_digest, file_in, write_atomic
from steadyclip.core.precision import Precision
from steadyclip.core.schema import checksum
from steadyclip.data.decode import UnreadableImage
from steadyclip.data.tables import Table

if TYPE_CHECKING:
    from typing_extensions import Self

    from steadyclip.models import DualEncoder

KINDS = ("image", "text")
Features = Literal["float32", "float16"]
"""How features are stored."""
ROWS = ("key", "text", "place", "size", "digest")
"""``place`` and ``size`` find the image again, ``digest`` tells if it is the same."""
ADOPTED_COLUMNS = ("image_path", "caption")
"""Of clip-retrieval's metadata: path of the image, and text."""


class _Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a folder holds, in a JSON file in it. What has its default is left out, so that the checksums of older files
    stay what they were."""

    file: ClassVar[str]

    checksum: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where there is no such file; raises ``DataError`` where it is of another kind."""
        file = folder / cls.file
        try:
            content = file.read_bytes() if file.is_file() else None
            found = None if content is None else msgspec.json.decode(content, type=cls)
            if found is not None and found.checksum not in ("", found._sum()):
                raise DataError(f"{file} was changed or damaged, its checksum does not fit: embed the pool again.")
            return found
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(f"{file} is not of a pool ({error}): delete the pool and embed it again.") from None
        except OSError as error:
            raise DataError(f"cannot read {file}: {error.strerror or error}.") from None

    def write(self, folder: Path) -> None:
        self.checksum = self._sum()
        write_atomic(folder / self.file, msgspec.json.format(msgspec.json.encode(self), indent=1))

    def _sum(self) -> str:
        return checksum(msgspec.to_builtins(self))


class FinishedPart(_Record):
    """What is in a part, and the (key, reason) of each pair that was left out."""

    file: ClassVar[str] = "part.json"

    name: str
    folder: str
    rows: int
    hash: str
    skipped: list[tuple[str, str]]
    sums: dict[str, str] = {}
    """Digests of the files in the folder."""
    files: dict[str, str] = {}
    """Where those files lie that are not in the folder: all of an adopted pool."""

    @property
    def broken(self) -> str:
        """Where and why the part ends before its end; empty if it does not."""
        return next((f"{key}: {reason}" for key, reason in self.skipped if reason.startswith(BROKEN)), "")


class Sources(msgspec.Struct):
    """What the pool is made from: ``files`` and their sizes, and how they were read."""

    files: dict[str, int]
    text_column: str | None
    part_rows: int


class Adopted(msgspec.Struct):
    """Where the features come from, if they were not computed here.

    Attributes:
        folder: that they lie in.
        images: folder in which the paths of the images begin.
        compared: pairs that were embedded again to see that the features are those of the weights; 0: nobody looked.
        lowest: the lowest cosine of their images; 0 if nobody looked.
    """

    folder: str
    images: str
    compared: int
    lowest: float


class Manifest(_Record):
    """What a pool is; ``parts`` is empty until it is finished, ``failed`` has those that it goes without, or of which
    it has the first pairs only, with the reasons."""

    file: ClassVar[str] = "manifest.json"

    model: str
    weights: str
    preprocess: str
    width: int
    batch_size: int
    sources: Sources
    parts: list[FinishedPart] = msgspec.field(default_factory=lambda: [])  # a function: it is written even if empty
    schema: Literal[1] = msgspec.field(default_factory=lambda: 1)
    features: Features = "float32"
    precision: Precision = "fp32"
    failed: dict[str, str] = {}
    adopted: Adopted | None = None

    @property
    def made_by(self) -> list[str]:
        """What decides about the features of a pair."""
        how = [self.features, self.precision]
        return [self.weights, self.preprocess, *(how if how != ["float32", "fp32"] else [])]

    def differences(self, other: Manifest) -> str:
        """What stands differently in ``other``, in words; empty if nothing that decides about features does."""
        if self.adopted:
            return f"features that were adopted from {self.adopted.folder}"
        told = [
            f"{name} {getattr(self, name)!r} instead of {getattr(other, name)!r}"
            for name in ("model", "weights", "preprocess", "width", "batch_size", "features", "precision")
            if getattr(self, name) != getattr(other, name)
        ]
        if self.sources != other.sources:
            files = {name for name, _ in self.sources.files.items() ^ other.sources.files.items()}
            told.append(f"other sources ({', '.join(sorted(files)[:3]) or 'read in another way'})")
        return ", ".join(told)


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
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Pool:
        """The finished pool in the folder ``path``; nothing large is read.

        Raises:
            DataError: there is no pool, it is not finished, or a file of it is missing or cut off.
        """
        manifest = Manifest.read(Path(path))
        if manifest is None:
            raise DataError(f"{path} holds no pool: make one with `steadyclip anchors embed`.")
        if not manifest.parts:
            raise DataError(f"the pool in {path} is not finished: the same `steadyclip anchors embed` goes on with it.")
        pool = cls(Path(path), manifest)
        for part in manifest.parts:
            for kind in KINDS:
                pool.features(part, kind)
        return pool

    def __len__(self) -> int:
        return sum(part.rows for part in self.manifest.parts)

    @property
    def hash(self) -> str:
        """16 hex digits over the pairs, weights and transform."""
        parts = [part.hash for part in self.manifest.parts]
        text = json.dumps([*self.manifest.made_by, parts])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def check(self, model: DualEncoder) -> None:
        """See that the features are those of ``model``.

        Raises:
            DataError: they are of other weights or of another transform.
        """
        for what, mine in {"weights": model.weights_hash, "preprocess": repr(model.preprocess)}.items():
            if getattr(self.manifest, what) != mine:
                raise DataError(
                    f"the pool in {self.path} was embedded with other {what} ({self.manifest.model}, "
                    f"{self.manifest.weights}) than those of {model.name} ({model.weights_hash}): name that model, "
                    "or embed the pool again into another folder."
                )

    def chunks(
        self, kinds: Sequence[str], size: int, parts: Sequence[FinishedPart] | None = None
    ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """First row and stored features (at most ``size``, D) by kind, over the whole pool or some of its parts."""
        first = 0
        for part in self.manifest.parts if parts is None else parts:
            self._verify(part, [f"{kind}.npy" for kind in kinds])
            arrays = {kind: self.features(part, kind) for kind in kinds}
            for begin in range(0, part.rows, size):
                yield first + begin, {kind: array[begin : begin + size] for kind, array in arrays.items()}
            first += part.rows

    def features(self, part: FinishedPart, kind: str) -> np.ndarray:
        """Memory-mapped (N, D) features of one part.

        Raises:
            DataError: the file is missing, cut off, or of another shape or kind.
        """
        file, shape = self.file(part, f"{kind}.npy"), (part.rows, self.manifest.width)
        try:  # "c": as good as read-only, but torch takes it without a copy; what is empty cannot be mapped
            array = np.load(file, mmap_mode="c" if part.rows else None)
            if array.shape != shape or array.dtype != self.manifest.features:
                raise ValueError(f"it is {array.shape} {array.dtype}, not {shape} {self.manifest.features}")
        except Exception as error:  # numpy reads the header as Python does: errors of many kinds
            again = "adopt its folder again" if part.files else "delete the pool and embed it again"
            raise DataError(f"{file} cannot be read ({error}): {again}.") from None
        return array

    def file(self, part: FinishedPart, name: str) -> Path:
        """Where the file ``name`` of a part is."""
        return Path(part.files.get(name, self.path / part.folder / name))

    def _verify(self, part: FinishedPart, names: Sequence[str]) -> None:
        """Raises DataError where a file of a part is not what was written."""
        for name in names:
            file = self.file(part, name)
            try:
                fits = name not in part.sums or file_digest(file) == part.sums[name]
            except OSError as error:
                raise DataError(f"cannot read {file}: {error.strerror or error}.") from None
            if not fits:
                again = f"delete {part.folder} of the pool, and the same `steadyclip anchors embed` makes it again."
                if part.files:
                    again = "put the old file back, or adopt its folder again."
                raise DataError(f"{file} was changed or damaged: {again}")

    def pairs(self, rows: Sequence[int], source: str | Path | None = None) -> Iterator[PoolPair]:
        """The pairs at ``rows``, which must be sorted; each file is read once, from front to back.

        Args:
            rows: numbers in the pool.
            source: a folder that the files of the sources have been moved to.

        Raises:
            DataError: a source is not there any more, or has changed since it was embedded, or an image of an adopted
                pool cannot be read.
        """
        parts, first = self._sources(source), 0
        for entry in self.manifest.parts:
            inside = [row - first for row in rows if first <= row < first + entry.rows]
            if inside:
                self._verify(entry, ["rows.parquet"])
                if self.manifest.adopted:
                    yield from (pair._replace(row=first + pair.row) for pair in _read(parts[entry.name], inside))
                else:
                    found = Table.open(self.file(entry, "rows.parquet")).arrow(ROWS).take(inside).to_pylist()
                    for row, pair, image in zip(inside, found, _images(parts[entry.name], found), strict=True):
                        yield PoolPair(first + row, pair["key"], pair["text"], image)
            first += entry.rows

    def _sources(self, source: str | Path | None) -> dict[str, Part]:
        """The parts of the sources by name."""
        settings, adopted = self.manifest.sources, self.manifest.adopted
        if adopted:
            return {part.name: adopted_part(part, Path(source or adopted.images)) for part in self.manifest.parts}
        places = [(Path(source), Path(file).name) if source else (Path("/"), file) for file in settings.files]
        files = [file_in(folder, file) for folder, file in places]
        found = {part.name: part for part in find_parts(files, settings.text_column, settings.part_rows)}
        if gone := next((entry.name for entry in self.manifest.parts if entry.name not in found), None):
            raise DataError(
                f"the sources of the pool in {self.path} have changed: there is no part {gone} any more. "
                "Put the old files back, or embed the pool again."
            )
        return found


def adopted_part(part: FinishedPart, images: Path) -> TablePart:
    """The rows of an adopted part, whose paths begin in the folder ``images``."""
    file, (path, text) = Path(part.files["rows.parquet"]), ADOPTED_COLUMNS
    return TablePart(file, part.name, Table.open(file), path, text, path, 0, part.rows, "", root=images)


def _read(part: Part, rows: Sequence[int]) -> Iterator[PoolPair]:
    """The pairs at the sorted ``rows`` of an adopted part."""
    wanted = set(rows)
    for row in itertools.islice(part.rows(rows[0]), rows[-1] - rows[0] + 1):
        if row.place in wanted:
            try:
                yield PoolPair(row.place, row.key, " ".join(row.text.split()), row.load())
            except UnreadableImage as error:
                raise DataError(
                    f"{part.path} row {row.place + 1}: its image cannot be read ({error}): name the folder in which "
                    "the paths begin with --pool-source."
                ) from None


def _images(part: Part, pairs: Sequence[dict[str, Any]]) -> Iterator[bytes]:
    """The images of ``pairs``, rows of the table of ``part``, checked to be those that were embedded."""
    try:
        images = part.fetch([(pair["place"], pair["size"]) for pair in pairs])
        for pair, image in zip(pairs, images, strict=True):
            if digest(image) != pair["digest"]:
                raise DataError(
                    f"{part.path} has changed since it was embedded ({pair['key']} is another image): put the "
                    "old file back, or embed the pool again."
                )
            yield image
    except (OSError, ValueError) as error:
        raise DataError(f"{part.path} cannot be read any more: {error or type(error).__name__}.") from None


def digest(image: bytes) -> str:
    """16 hex digits over an encoded image."""
    return hashlib.sha256(image).hexdigest()[:16]
