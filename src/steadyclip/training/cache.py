"""Features of the frozen model for a whole training: what lies below everything trained is computed once.

Shapes: N training images, V augmented views of each, B images in a batch, D feature width.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from steadyclip.core.progress import progress_bar
from steadyclip.data.batches import loader
from steadyclip.heads import FeatureTask
from steadyclip.methods.planner import Planner
from steadyclip.models.features import image_features
from steadyclip.objectives import Batch, Image, Read, Text, TextView
from steadyclip.training.config import TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask

_AT_ONCE = 64


def cacheable(reads: Iterable[Read]) -> list[Read]:
    """The reads whose rows are the same whenever an image is seen in the same view. (Patches would be, too, but take
    two hundred times the room.)"""
    return [r for r in reads if r.tower == "image" and r.state == "frozen" and r.view.finite and r.what != "patches"]


class FeatureCache:
    """Raw rows of cacheable reads for every training image and view, on the model's device."""

    def __init__(
        self, planner: Planner, images: ImageSet, prepare: Callable[..., Any], seed: int, workers: int
    ) -> None:
        """``prepare`` turns an image, and a ``random.Random`` where it is augmented, into pixels."""
        self.planner, self.images, self.prepare, self.seed, self.workers = planner, images, prepare, seed, workers
        self.tables: dict[Read, Tensor] = {}
        self.skipped: dict[str, str] = {}

    @torch.no_grad()
    def fill(
        self, reads: Iterable[Read], views: int, augment: bool, progress: Callable[[int, int], None] | None = None
    ) -> None:
        """Encode all images in ``views`` views; several processes share the images.

        Raises:
            DataError: more images cannot be read than the set allows.
        """
        reads = sorted(reads, key=repr)  # in one order in all processes
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
        device, done = self.planner.model.device, 0
        for view in range(views):
            batches = loader(
                self.images, self.prepare, batch_size=_AT_ONCE * world, seed=self.seed if augment else None, epoch=view,
                augment=augment, workers=self.workers, shard=(rank, world),
            )  # fmt: skip
            for images_BCHW, labels_B, index_B in batches:
                f = self.planner.features((), (), Batch(labels_B.to(device), images_BCHW=images_BCHW.to(device)))
                self.planner.fill(f, reads)
                for read in reads:
                    if read not in self.tables:
                        shape = (len(self.images), views, *f.raw[read].shape[1:])
                        self.tables[read] = torch.zeros(shape, device=device)
                    self.tables[read][index_B.to(device), view] = f.raw[read]
                done += len(index_B)
                if progress:
                    progress(done, views * len(self.images))
            self.skipped.update(batches.skipped)
        if world > 1:
            self._share(reads, world, device)
        self.images.accept(sorted(self.skipped.items()))

    def _share(self, reads: Iterable[Read], world: int, device: torch.device) -> None:
        """Every process gets the rows of all, and hears which images none could read."""
        mine = self.skipped, {read: table.shape for read, table in self.tables.items()}
        told: list[Any] = [None] * world
        dist.all_gather_object(told, mine)
        shapes: dict[Read, torch.Size] = {}
        for skipped, shapes_there in told:
            self.skipped.update(skipped)
            shapes |= shapes_there
        for read in reads:
            if read in shapes:
                table = self.tables.setdefault(read, torch.zeros(shapes[read], device=device))
                dist.all_reduce(table)

    def rows(self, index_B: Tensor, view: int) -> dict[Read, Tensor]:
        """The rows of some images in one view."""
        return {read: table[index_B.to(table.device), view] for read, table in self.tables.items()}


@torch.no_grad()
def fill_head(planner: Planner, task: ImageTask, config: TrainConfig) -> tuple[dict[str, Any], int]:
    """Let the head fill itself from features of the frozen model.

    Returns:
        What it chose, for the record; and how many images were encoded for it.
    """
    device, encoded = planner.model.device, 0
    shown = config.progress and not (dist.is_initialized() and dist.get_rank())

    def images(split: Literal["train", "val"], views: int) -> tuple[Tensor, Tensor]:
        nonlocal encoded
        chosen, views = task.train if split == "train" else task.val, views if config.augment else 0
        if not len(chosen):
            empty = torch.zeros(0, 1, planner.model.embed_dim, device=device)
            return empty, torch.zeros(0, dtype=torch.long, device=device)
        with progress_bar(chosen.name) if shown else contextlib.nullcontext() as advance:
            if not views:
                found = image_features(
                    planner.model, chosen, workers=config.workers, cache=config.feature_folder, frozen=True,
                    precision=config.precision, progress=advance,
                )  # fmt: skip
                encoded += 0 if found.cached else len(found.keys)
                return found.rows["feature"].to(device)[:, None], found.labels_N.to(device)
            prepare = functools.partial(planner.model.preprocess.train, scale=(config.smallest_crop, 1.0))
            bank = FeatureCache(planner, chosen, prepare, config.seed, config.workers)
            bank.fill([Image(state="frozen")], views, True, advance)
        there = [i for i, key in enumerate(chosen.keys) if key not in bank.skipped]
        (features_NVD,) = bank.tables.values()
        encoded += views * len(there)
        return features_NVD[there], torch.tensor(chosen.labels, device=device)[there]

    def text(view: TextView) -> Tensor:
        f = planner.features(task.classes, task.templates, None)
        planner.fill(f, [read := Text(view, "frozen")])
        return f.raw[read]

    choices = planner.head.solve(FeatureTask(images, text, planner.model.scale_and_bias(True)[0]), config.seed)
    return choices, encoded
