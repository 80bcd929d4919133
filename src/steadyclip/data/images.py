"""An ordered, immutable set of named images, and where their bytes are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, ImageOps

from steadyclip.core.errors import DataError
from steadyclip.core.files import file_in
from steadyclip.data.content import content_hash, digests, threads
from steadyclip.data.decode import UnreadableImage, decode, quiet
from steadyclip.data.tables import Table, text_of

Skipped = tuple[tuple[str, str], ...]
"""Images left out: (key, reason) pairs."""

_OPENING = threading.Lock()


class Store(Protocol):
    """Where the encoded images are; small when pickled, so that a worker process opens its own.

    A store of files also has ``file(key)``, the file that holds the image: what has been hashed is not read again as
    long as the file's size and time of change are the same.
    """

    def read(self, key: str) -> bytes:
        """The encoded image ``key``. Raises ``UnreadableImage`` when it cannot be had."""
        ...


@dataclass(frozen=True)
class FileStore:
    """Images as files below ``root``; a key is a path relative to it."""

    root: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.abspath(self.root)))  # a later chdir must not matter

    def read(self, key: str) -> bytes:
        try:
            return self.file(key).read_bytes()
        except OSError as error:
            raise UnreadableImage(key, (error.strerror or type(error).__name__).lower()) from None
        except ValueError:  # a character of code 0
            raise UnreadableImage(key, "that cannot be a path") from None

    def file(self, key: str) -> Path:
        return file_in(self.root, key)


@dataclass(frozen=True)
class ParquetStore:
    """Images as bytes in one column of a parquet file, which each process opens at its first use.

    ``key_column`` holds the keys, or is "COLUMN.path" where they stand beside the bytes; without one the keys are
    ``row_key`` of the rows.
    """

    path: Path
    column: str
    key_column: str | None = None

    def read(self, key: str) -> bytes:
        with _OPENING:
            images, rows = self._opened
        if key not in rows:
            raise UnreadableImage(key, "it is not in the table any more")
        return image_bytes(images[rows[key]].as_py(), key)

    def file(self, key: str) -> Path:
        return self.path

    @cached_property
    def _opened(self) -> tuple[Any, dict[str, int]]:
        inner = f"{self.column}.path"
        columns = (self.column, self.key_column if self.key_column != inner else None)
        table = Table.open(self.path).arrow([name for name in columns if name])
        if self.key_column is None:
            keys = map(row_key, range(1, len(table) + 1))
        elif self.key_column == inner:
            keys = (key for chunk in table.column(self.column).chunks for key in chunk.field("path").to_pylist())
        else:
            keys = (text_of(key, self.path.name, self.key_column) for key in table.column(self.key_column).to_pylist())
        return table.column(self.column), {key: row for row, key in enumerate(keys)}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_opened"}


def image_bytes(value: Any, key: str) -> bytes:
    """What a table holds as an image: bytes, or a struct with ``bytes``. Raises ``UnreadableImage`` if nothing."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise UnreadableImage(key, "the table holds no bytes for it")
    return data


def row_key(number: int) -> str:
    """The key of an image that has no path: its row, counted from 1."""
    return f"row-{number:07}"


@dataclass(frozen=True)
class ImageSet:
    """N images with their labels, in a fixed order.

    ``keys`` are relative POSIX paths (or row ids), unique; ``labels`` index ``classes``; ``templates`` turn a class
    name into a prompt. ``domains`` and ``captions`` are None where there are none. Only ``read`` opens an image.
    ``groups`` name what an image shows where several show the same thing (one drawing, frames of one film): intervals
    draw such images together. None is an image that stands alone; by default all do.
    """

    name: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    keys: tuple[str, ...]
    labels: tuple[int, ...]
    domains: tuple[str | None, ...]
    captions: tuple[str | None, ...]
    store: Store = field(repr=False, compare=False)
    max_unreadable: float = field(default=0.05, compare=False)
    border: int = field(default=0, compare=False)
    """Pixels to cut off on every side: ObjectNet marks its images with a red border."""
    groups: tuple[str | None, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", (None,) * len(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def read(self, index: int, enough: float | None = None) -> Image.Image:
        """Image ``index``, upright and RGB. Raises ``UnreadableImage``.

        ``enough``: pixels a side, as the geometric mean of both, that are needed of it. A JPEG with twice as many is
        decoded at a half, a quarter or an eighth of its size: faster, and not quite the same pixels.
        """
        key = self.keys[index]
        with quiet():
            image = decode(self.store.read(key), key, enough=None if self.border else enough)
        return ImageOps.crop(image, self.border) if self.border else image

    @property
    def digests(self) -> tuple[str, ...]:
        """What each image is, as 32 hex digits over its encoded bytes, whatever its name; "" where it cannot be had."""
        return tuple(digests(self.store, self.keys))

    def unlike(self, seen: Collection[str]) -> ImageSet:
        """The images that are not among the digests ``seen``, such as ``ImageTask.digests``: same bytes, any name."""
        if not seen:
            return self
        return self.subset(i for i, digest in enumerate(self.digests) if not digest or digest not in seen)

    def changed(self, digests: Mapping[str, str]) -> list[str]:
        """The images that are others than when ``digests`` were taken, by key; "" and other keys do not count."""
        old = [digests.get(key, "") for key in self.keys]
        if not any(old):
            return []
        new = zip(self.keys, old, self.digests, strict=True)
        return [key for key, before, now in new if before and before != now]

    def refuse_changed(self, digests: Mapping[str, str], what: str) -> None:
        """See that no image has ``changed``.

        Raises:
            DataError: ``what`` ("captions.parquet") was made for images that were there under the same names.
        """
        if changed := self.changed(digests):
            raise DataError(
                f"{what} was made for other images under the same names: {len(changed)} of {len(self)} images of "
                f"{self.name} are others now, for instance {changed[0]}. Make it anew."
            )

    def subset(self, indices: Iterable[int]) -> ImageSet:
        """The images at ``indices``, in that order."""
        chosen = list(indices)
        return self._with(lambda name: (getattr(self, name)[i] for i in chosen))

    def group_numbers(self, keys: Sequence[str]) -> list[int]:
        """The group of each of the images ``keys`` as a number, from 0 without gaps; [] where all stand alone."""
        if not any(self.groups):
            return []
        group_of = dict(zip(self.keys, self.groups, strict=True))
        names = [(group_of[key], "") if group_of[key] else (None, key) for key in keys]
        number = {name: i for i, name in enumerate(dict.fromkeys(names))}
        return [number[name] for name in names]

    def by_domain(self, domains: Collection[str | None]) -> tuple[ImageSet, ImageSet]:
        """The images of ``domains``, and the others."""
        inside = [i for i, domain in enumerate(self.domains) if domain in domains]
        return self.subset(inside), self.subset(sorted(set(range(len(self))) - set(inside)))

    def joined(self, *others: ImageSet) -> ImageSet:
        """This set followed by ``others`` of the same data source."""
        return self._with(lambda name: (value for images in (self, *others) for value in getattr(images, name)))

    def _with(self, values: Callable[[str], Iterable[Any]]) -> ImageSet:
        """The set with other images: ``values`` are theirs, by the name of the field."""
        fields = ("keys", "labels", "domains", "captions", "groups")
        return dataclasses.replace(self, **{name: tuple(values(name)) for name in fields})

    def of_classes(self, numbers: Sequence[int]) -> ImageSet:
        """The images of the classes ``numbers``, labeled from 0 in that order."""
        place = {number: i for i, number in enumerate(numbers)}
        part = self.subset(i for i, label in enumerate(self.labels) if label in place)
        labels = tuple(place[label] for label in part.labels)
        return dataclasses.replace(part, classes=tuple(self.classes[i] for i in numbers), labels=labels)

    @property
    def hash(self) -> str:
        """16 hex digits over keys, labels and classes: the same for the same selection on every machine. It opens no
        image; what the images are is in ``content``."""
        text = json.dumps([self.keys, self.labels, self.classes], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def content(self) -> str:
        """16 hex digits over what the images are, with labels and classes, whatever their names; it reads every image
        that was not hashed before."""
        return self.content_with(())

    def content_with(self, facts: Sequence[Any]) -> str:
        """As ``content``, with a further fact of each image that decides, such as its caption."""
        labels = list(zip(self.labels, facts, strict=True)) if facts else self.labels
        return content_hash(self.store, self.keys, labels, [self.classes, self.border])

    def unreadable(self) -> Skipped:
        """The images that cannot be decoded, with the reason. Reads every one, on a few threads."""

        def problem(key: str) -> tuple[str, str] | None:
            try:
                decode(self.store.read(key), key, verify_only=True)
            except UnreadableImage as error:
                return key, error.reason
            return None

        with quiet(), threads(min(8, os.cpu_count() or 1)) as pool:
            return tuple(found for found in pool.map(problem, self.keys) if found)

    def without(self, skipped: Iterable[tuple[str, str]]) -> ImageSet:
        """The set less the ``skipped`` images."""
        gone = {key for key, _ in skipped}
        return self.subset(i for i, key in enumerate(self.keys) if key not in gone) if gone else self

    def accept(self, skipped: Sequence[tuple[str, str]], *, every_class: bool = True) -> None:
        """Judge whether the set can do without the ``skipped`` (unreadable) images.

        Args:
            skipped: (key, reason) pairs; keys that are not in this set do not count.
            every_class: each class must keep an image.

        Raises:
            DataError: more than the share ``max_unreadable`` is lost, or a class loses all its images.
        """
        gone = dict(skipped)
        lost = [(label, key) for key, label in zip(self.keys, self.labels, strict=True) if key in gone]
        if not lost:
            return
        before, after = Counter(self.labels), Counter(self.labels)
        after.subtract(label for label, _ in lost)
        for label, key in lost:
            if every_class and not after[label]:
                raise DataError(
                    f"{self.name}: class {self.classes[label]!r} loses all its images ({before[label]}), "
                    f"for instance {key}: {gone[key]}. Replace them, or leave the class out."
                )
        if len(lost) > self.max_unreadable * len(self):
            key = lost[0][1]
            raise DataError(
                f"{self.name}: {len(lost)} of {len(self)} images cannot be read, more than the share max_unreadable="
                f"{self.max_unreadable:g}, for instance {key}: {gone[key]}. Replace them, or raise max_unreadable"
                " (--max-unreadable)."
            )


def read_image(path: str | Path) -> Image.Image:
    """The upright RGB image in one file. Raises ``UnreadableImage``."""
    path = Path(path)
    with quiet():
        return decode(FileStore(path.parent).read(path.name), str(path))
