"""Decodes and resizes images ahead of a model, on threads or in processes. Free of torch, so that processes start fast.

Shapes: H W pixels of what the model sees.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from steadyclip.core.errors import SteadyClipError, UsageError
from steadyclip.core.files import file_in
from steadyclip.core.processes import end_with_parent
from steadyclip.data.decode import UnreadableImage, decode, pixels_of, quiet
from steadyclip.data.images import read_image
from steadyclip.data.pixels import Pixels

if TYPE_CHECKING:
    from typing_extensions import Self

Picture = Any
"""An image as callers have it: a path, encoded bytes, a PIL image, or an array (H, W, 3) of uint8."""

_THREADS = 4


class TooLarge(str):
    """Why an image is not decoded, where it has too many pixels."""


def levels_of(picture: Picture, key: str, pixels: Pixels) -> np.ndarray:
    """What the model sees of one picture, (H, W, 3) uint8.

    Raises:
        UnreadableImage: it is not there or cannot be decoded; ``key`` is what the error calls it.
        UsageError: it is none of the kinds of ``Picture``.
    """
    if isinstance(picture, str | Path):
        picture = read_image(file_in(Path(), str(picture)))
    elif isinstance(picture, bytes | bytearray | memoryview):
        picture = decode(bytes(picture), key)
    elif isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3) or picture.shape[2:] not in ((), (3,), (4,)):
            raise UsageError(
                f"{key}: an array of {picture.dtype} with the shape {picture.shape} was given; an image is uint8 with "
                "the shape (height, width, 3)."
            )
        picture = Image.fromarray(picture)
    elif not isinstance(picture, Image.Image):
        raise UsageError(
            f"{key}: {type(picture).__name__} is no image: give a path, bytes, a PIL image or a uint8 array."
        )
    return pixels.levels(picture)


class Decoder:
    """A context manager over threads, or over ``workers`` processes, that decode."""

    def __init__(self, pixels: Pixels, workers: int = 0, most: int | None = None) -> None:
        """``workers``: processes, or 0 for a few threads of this one. ``most``: pixels of an image, by its header."""
        self.pixels, self.workers, self.most = pixels, workers, most
        self._quiet = quiet()

    def __enter__(self) -> Self:
        self._quiet.__enter__()
        self._pool = self._new_pool()
        return self

    def _new_pool(self) -> Executor:
        if self.workers:  # fresh processes: a fork of a process with threads may hang
            return ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn"), _begin)
        return ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1))

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._quiet.__exit__(None, None, None)

    def submit(self, picture: Picture, key: str) -> Future[np.ndarray | str]:
        """The levels of one picture as they will be, or the reason why it cannot be read.

        Where a process dies, all that was in work raises ``BrokenProcessPool``; the next call starts new ones.
        """
        try:
            return self._pool.submit(_levels_or_reason, picture, key, self.pixels, self.most)
        except BrokenProcessPool:
            self._pool = self._new_pool()
            return self._pool.submit(_levels_or_reason, picture, key, self.pixels, self.most)

    def ordered(
        self, pictures: Iterable[tuple[str, Picture]], ahead: int
    ) -> Generator[tuple[str, np.ndarray | str], None, None]:
        """Key and result of each of ``pictures`` in their order, with ``ahead`` of them in work."""
        pending: deque[tuple[str, Future[np.ndarray | str]]] = deque()
        try:
            for key, picture in pictures:
                pending.append((key, self.submit(picture, key)))
                if len(pending) > ahead:
                    key, future = pending.popleft()
                    yield key, future.result()
            for key, future in pending:
                yield key, future.result()
        except BrokenProcessPool:
            raise SteadyClipError(
                f"a decoding process died, perhaps for lack of memory: take fewer than {self.workers} workers."
            ) from None


def batched(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of ``size`` items, the last one perhaps shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


def _levels_or_reason(picture: Picture, key: str, pixels: Pixels, most: int | None) -> np.ndarray | str:
    try:
        if most and isinstance(picture, bytes) and (count := pixels_of(picture)) > most:
            return TooLarge(f"has {count:,} pixels; at most {most:,} are decoded")
        return levels_of(picture, key, pixels)
    except UnreadableImage as error:
        return error.reason


def _begin() -> None:
    """Of each process: Ctrl-C is for the one that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    quiet().__enter__()
