"""Batches of decoded images, in an order and with an augmentation that depend on seeds only.

B images in a batch, C channels, H W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from steadyclip.core.errors import DataError
from steadyclip.data.decode import UnreadableImage
from steadyclip.data.images import ImageSet

Place = tuple[int, str | None]
"""A position in an image set, and what the augmentation of the image is seeded by; None: it is not augmented."""
_KEPT = 2**30
"""Bytes of decoded images that a training keeps in memory, in all of its worker processes together."""


class ImageLoader(DataLoader[Any]):
    """A DataLoader of (images_BCHW, labels_B, index_B); images that cannot be read are left out of their batch and
    collected in ``skipped`` as (key, reason). ``index_B`` are positions in the image set. A batch of which no image can
    be read is left out; if ``strict``, it is an error."""

    skipped: list[tuple[str, str]]
    strict: bool
    name: str

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for batch, broken in super().__iter__():
            self.skipped.extend(broken)
            if batch is not None:
                yield tuple(batch)  # pinning memory makes lists of tuples
            elif self.strict:
                some = "; ".join(f"{key} ({why})" for key, why in broken[:3])
                raise DataError(f"{self.name}: no image of a whole batch can be read any more: {some}.")


def loader(
    image_set: ImageSet,
    transform: Callable[..., Tensor],
    *,
    batch_size: int,
    seed: int | None = None,
    epoch: int = 0,
    augment: bool = False,
    workers: int = 0,
    start: int = 0,
    drop_last: bool = False,
    shard: tuple[int, int] = (0, 1),
    view: int | None = None,
    enough: float | None = None,
) -> ImageLoader:
    """One pass over ``image_set``.

    The batches are the same for any number of workers, and depend on nothing but the arguments: torch's and
    Python's global generators are neither read nor moved.

    Args:
        image_set: what to read.
        transform: ``transform(image)``, or ``transform(image, rng)`` when augmenting; returns a tensor (C, H, W).
        batch_size: images a batch, over all shards.
        seed: order of the images, a permutation for each (seed, epoch); None keeps the set's own order.
        epoch: which pass this is.
        augment: give ``transform`` a ``random.Random`` seeded with (seed, view, key of the image).
        workers: processes that decode.
        start: first batch to yield; what comes before it is not decoded, so that a training resumes in mid-epoch.
        drop_last: leave out a last batch that is not full.
        shard: (rank, processes): every process takes its part of each batch.
        view: number of the augmented view; by default the epoch.
        enough: as for ``ImageSet.read``.
    """
    seeded = f"{seed}/{epoch if view is None else view}" if augment else None
    places = batch_places(
        len(image_set), batch_size, seed=seed, epoch=epoch, start=start, drop_last=drop_last, shard=shard
    )
    batches = [[(place, seeded) for place in batch] for batch in places]
    return loader_of(image_set, transform, batches, workers=workers, enough=enough)


def loader_of(
    image_set: ImageSet,
    transform: Callable[..., Tensor],
    batches: Iterable[Sequence[Place]],
    *,
    workers: int = 0,
    enough: float | None = None,
    keep: bool = False,
    strict: bool = False,
) -> ImageLoader:
    """The images of given ``batches``, by the same processes from the first to the last.

    Args:
        image_set: what to read.
        transform: as for ``loader``.
        batches: places of the images of each.
        workers: processes that decode.
        enough: as for ``ImageSet.read``.
        keep: keep decoded images in memory as long as there is room, for those that come again.
        strict: a batch of which no image can be read is an error.
    """
    made = ImageLoader(
        _Decoded(image_set, transform, enough, _KEPT // max(1, workers) if keep else 0),
        batch_sampler=batches,  # pyright: ignore[reportArgumentType]
        collate_fn=_collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),  # else each pass would draw from torch's global generator
    )
    made.skipped, made.strict, made.name = [], strict, image_set.name
    return made


def batch_places(
    length: int,
    batch_size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    start: int = 0,
    drop_last: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> list[list[int]]:
    """Positions of the images of each batch, as ``loader`` takes them."""
    order = list(range(length))
    if seed is not None:
        random.Random(f"{seed}/{epoch}").shuffle(order)
    stop = length - length % batch_size if drop_last else length
    starts = range(start * batch_size, stop, batch_size)
    batches = [order[at : min(at + batch_size, stop)][shard[0] :: shard[1]] for at in starts]
    return [batch for batch in batches if batch]


class _Decoded(Dataset[Any]):
    """Item ``place``: (pixels_CHW, label, index), or the (key, reason) of an image that cannot be read."""

    def __init__(self, image_set: ImageSet, transform: Callable[..., Tensor], enough: float | None, room: int) -> None:
        """``room``: bytes of decoded images that this process may keep."""
        self.image_set, self.transform, self.enough, self.room = image_set, transform, enough, room
        self.kept: dict[int, Image.Image] = {}

    def __getitem__(self, place: Place) -> tuple[Tensor, int, int] | tuple[str, str]:
        index, seed = place
        try:
            image = self._image(index)
        except UnreadableImage as error:
            return error.key, error.reason
        rng = () if seed is None else (random.Random(f"{seed}/{self.image_set.keys[index]}"),)
        return self.transform(image, *rng), self.image_set.labels[index], index

    def _image(self, index: int) -> Image.Image:
        image = self.kept.get(index)
        if image is None:
            image = self.image_set.read(index, self.enough)
            size = 4 * image.width * image.height  # as Pillow keeps RGB
            if size <= self.room:
                self.room -= size
                self.kept[index] = image
        return image


def _collate(items: Sequence[Any]) -> tuple[tuple[Tensor, Tensor, Tensor] | None, list[tuple[str, str]]]:
    read = [item for item in items if len(item) == 3]
    broken = [item for item in items if len(item) == 2]
    if not read:
        return None, broken
    images, labels, index = zip(*read, strict=True)
    return (torch.stack(images), torch.tensor(labels), torch.tensor(index)), broken
