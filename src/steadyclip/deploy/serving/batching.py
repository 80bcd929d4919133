"""Joins the requests of many clients into batches for one model.

Shapes: B images in a batch, H W pixels, C classes, D feature width.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from steadyclip.deploy.predictor import Predictor

Kind = Literal["probabilities", "features"]


class Full(Exception):
    """So many images are waiting that another one would wait too long."""


@dataclass
class _Waiting:
    predictor: Predictor
    kind: Kind
    levels_HWC: np.ndarray
    answer: asyncio.Future[np.ndarray]


class Batcher:
    """A queue in front of one model thread.

    A batch is what waits when the model becomes free, ``rows`` images at most; if fewer wait, it gives others
    ``seconds`` to come. Who hangs up is dropped before the model sees the image.
    """

    def __init__(
        self,
        rows: int = 32,
        seconds: float = 0.005,
        waiting: int = 256,
        seen: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """``waiting``: images that may wait. ``seen`` is told the size of each batch."""
        self.rows, self.seconds, self.most, self.seen = rows, seconds, waiting, seen
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._model = ThreadPoolExecutor(1, "model")
        self._task: asyncio.Task[None] | None = None
        self.waiting = 0

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Stop answering."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._model.shutdown(wait=False, cancel_futures=True)

    def reserve(self, images: int = 1) -> None:
        """Raises Full where there is no room for so many images."""
        if self.waiting + images > self.most:
            raise Full

    async def answer(self, predictor: Predictor, kind: Kind, levels_HWC: np.ndarray) -> np.ndarray:
        """Probabilities (C,) or features (D,) of one image."""
        self.waiting += 1
        try:
            future = asyncio.get_running_loop().create_future()
            self._queue.put_nowait(_Waiting(predictor, kind, levels_HWC, future))
            return await future
        finally:
            self.waiting -= 1

    async def call(self, function: Callable[[], object]) -> object:
        """``function()`` in the model's thread, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._model, function)

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
                deadline = asyncio.get_running_loop().time() + self.seconds
                while len(batch) < self.rows:
                    if self._queue.empty():
                        left = deadline - asyncio.get_running_loop().time()
                        batch.append(await asyncio.wait_for(self._queue.get(), max(0.0, left)))
                    else:
                        batch.append(self._queue.get_nowait())
            groups: dict[tuple[int, Kind], list[_Waiting]] = {}
            for item in batch:
                if not item.answer.done():  # else its client has gone
                    groups.setdefault((id(item.predictor), item.kind), []).append(item)
            for group in groups.values():
                await self._compute(group)

    async def _compute(self, group: list[_Waiting]) -> None:
        levels_BHWC = np.stack([item.levels_HWC for item in group])
        predictor, kind = group[0].predictor, group[0].kind
        self.seen(len(group))
        try:
            rows: object = await self.call(lambda: compute(predictor, kind, levels_BHWC))
            assert isinstance(rows, np.ndarray)
            for item, row in zip(group, rows, strict=True):
                if not item.answer.done():
                    item.answer.set_result(row)
        except Exception as error:
            for item in group:
                if not item.answer.done():
                    item.answer.set_exception(error)


def compute(predictor: Predictor, kind: Kind, levels_BHWC: np.ndarray) -> np.ndarray:
    """Probabilities (B, C), or features (B, D)."""
    if kind == "probabilities":
        return predictor.probabilities(levels_BHWC)
    return predictor.engine.image(predictor.engine.pixels.normalized(levels_BHWC))
