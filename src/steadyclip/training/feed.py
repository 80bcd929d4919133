"""What each step is trained on: a function of (seed, step), so that a resumed training sees the same images.

Shapes: B images in a batch, C channels, H W pixels.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from steadyclip.core.errors import DataError, UsageError
from steadyclip.data.batches import batch_places, loader_of
from steadyclip.training.config import TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.models import Preprocess
    from steadyclip.objectives.streams import Stream


@dataclass(frozen=True)
class Sample:
    """What one process trains on in one step, on the CPU.

    Attributes:
        images_BCHW: pixels, uint8; None if no pass needs them.
        index_B: positions among the training images.
        view: number of the augmented view that the images are in.
    """

    images_BCHW: Tensor | None
    labels_B: Tensor
    index_B: Tensor
    view: int
    keys: tuple[str, ...]
    streams: dict[str, dict[str, Any]]


class Feed:
    """The batches of a training, for one of its processes.

    Each epoch is a seeded permutation cut into batches of one size; images left over at its end wait for the next one.

    Attributes:
        views: augmented views of each image; None draws anew in every epoch, 0 prepares as for evaluation.
        decode: whether pixels are needed at all.
        enough: pixels a side that a training image is needed at; None: all there are.
        skipped: images that could not be read while training: key -> reason.
    """

    def __init__(
        self,
        task: ImageTask,
        preprocess: Preprocess,
        batch_size: int,
        config: TrainConfig,
        streams: Mapping[str, Stream],
        views: int | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        """``shard`` is (rank, processes). A batch larger than the training set is cut to it.

        Raises:
            UsageError: there are more processes and accumulated parts than images in a batch.
        """
        self.task, self.config, self.streams, self.shard = task, config, streams, shard
        self.views = views if config.augment else 0
        self.decode = True
        self.prepare = transform(preprocess, config, self.views != 0)
        self.enough = preprocess.enough(config.smallest_crop) if self.views != 0 else None
        self.batch_size = min(batch_size, len(task.train))
        if self.batch_size < shard[1] * config.accumulate:
            raise UsageError(
                f"a batch of {self.batch_size} images cannot be shared by {shard[1]} processes in "
                f"{config.accumulate} parts each: raise batch_size, or lower accumulate."
            )
        self.steps_per_epoch = len(task.train) // self.batch_size
        self.skipped: dict[str, str] = {}

    def steps(self, start: int, stop: int) -> Iterator[Sample]:
        """The samples of steps ``start`` to ``stop`` (exclusive)."""
        drawn = {
            name: self._stream(name, stream, start, stop)
            for name, stream in self.streams.items()
            if not getattr(stream, "of_images", False)
        }
        images = self._decoded(start, stop) if self.decode else self._placed(start, stop)
        for step, (images_BCHW, labels_B, index_B) in zip(range(start, stop), images, strict=True):
            streams = {
                name: next(drawn[name]) if name in drawn else self._of_images(name, stream, step, index_B)
                for name, stream in self.streams.items()
            }
            view = self._view(step // self.steps_per_epoch)
            yield Sample(images_BCHW, labels_B, index_B, view, self._keys(index_B), streams)

    def keys(self, step: int) -> tuple[str, ...]:
        """The images of ``step``."""
        return self._keys(next(self._placed(step, step + 1))[2])

    def _keys(self, index_B: Tensor) -> tuple[str, ...]:
        return tuple(self.task.train.keys[i] for i in index_B.tolist())

    def _view(self, epoch: int) -> int:
        return epoch if self.views is None else epoch % max(1, self.views)

    def _places(self, start: int, stop: int) -> Iterator[list[int]]:
        """Positions of the images of the steps ``start`` to ``stop``."""
        first = start
        while first < stop:
            epoch, at = divmod(first, self.steps_per_epoch)
            batches = batch_places(
                len(self.task.train), self.batch_size, seed=self.config.seed, epoch=epoch, start=at, drop_last=True,
                shard=self.shard,
            )  # fmt: skip
            yield from batches[: stop - first]
            first += len(batches)

    def _decoded(self, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """(images_BCHW, labels_B, index_B) of the steps. The processes that decode stay from the first to the last."""
        train, config, augment = self.task.train, self.config, self.views != 0
        words = (f"{config.seed}/{self._view(step // self.steps_per_epoch)}" for step in range(start, stop))
        batches = loader_of(
            train, self.prepare,
            ([(place, seeded if augment else None) for place in places]
             for places, seeded in zip(self._places(start, stop), words, strict=True)),
            workers=config.workers, enough=self.enough, keep=True, strict=True,
        )  # fmt: skip
        for batch in batches:
            if batches.skipped:
                self.skipped.update(batches.skipped)
                batches.skipped.clear()  # each comes once an epoch
                train.accept(sorted(self.skipped.items()))
            yield batch

    def _placed(self, start: int, stop: int) -> Iterator[tuple[None, Tensor, Tensor]]:
        """The same without opening an image."""
        train = self.task.train
        labels_N = torch.tensor(train.labels)
        for places in self._places(start, stop):
            there = [place for place in places if train.keys[place] not in self.skipped]
            if not there:
                raise DataError(f"{train.name}: no image of a whole batch can be read: {train.keys[places[0]]}, ...")
            yield None, labels_N[there], torch.tensor(there)

    def _of_images(self, name: str, stream: Stream, step: int, index_B: Tensor) -> dict[str, Any]:
        """The stream's items of the images ``index_B``."""
        seed = f"{self.config.seed}/{name}/{step}"
        return stream.collate([stream.item(i, random.Random(f"{seed}/{i}")) for i in index_B.tolist()])

    def _stream(self, name: str, stream: Stream, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """Batches of a stream, as many items a step as there are images: seeded permutations without a gap."""
        seed = f"{self.config.seed}/{name}"
        batches = DataLoader(
            _Drawn(stream, seed),
            batch_sampler=_stream_places(len(stream), self.batch_size, seed, start, stop, self.shard),
            collate_fn=stream.collate,
            num_workers=self.config.workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),  # else it would draw from torch's global generator
        )
        return iter(batches)


def transform(preprocess: Preprocess, config: TrainConfig, augment: bool) -> Callable[..., Tensor]:
    """Makes pixels of an image and, if it is augmented, of a ``random.Random``."""
    crop = config.smallest_crop, 1.0
    return functools.partial(preprocess.train_pixels, scale=crop) if augment else preprocess.pixels


@dataclass(frozen=True)
class _Drawn(Dataset[dict[str, Any]]):
    stream: Stream
    seed: str

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        epoch, index = place
        return self.stream.item(index, random.Random(f"{self.seed}/{epoch}/{index}"))


def _stream_places(
    length: int, batch_size: int, seed: str, start: int, stop: int, shard: tuple[int, int]
) -> Iterator[list[tuple[int, int]]]:
    """(epoch, index) of the items of each step."""

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> list[int]:
        return random.Random(f"{seed}/{epoch}").sample(range(length), length)

    rank, processes = shard
    for step in range(start, stop):
        turns = (divmod(i, length) for i in range(step * batch_size + rank, (step + 1) * batch_size, processes))
        yield [(epoch, order(epoch)[position]) for epoch, position in turns]
