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
        """Encode all images in ``views`` views; several processes share the images."""
        reads = list(reads)
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
        for table in self.tables.values():
            if world > 1:
                dist.all_reduce(table)

    def rows(self, index_B: Tensor, view: int) -> dict[Read, Tensor]:
        """The rows of some images in one view."""
        return {read: table[index_B.to(table.device), view] for read, table in self.tables.items()}


@torch.no_grad()
def fill_head(planner: Planner, task: ImageTask, config: TrainConfig) -> dict[str, Any]:
    """Let the head fill itself from features of the frozen model; what it chose, for the record."""
    device, shown = planner.model.device, config.progress

    def images(split: Literal["train", "val"], views: int) -> tuple[Tensor, Tensor]:
        chosen = task.train if split == "train" else task.val
        if not len(chosen):
            empty = torch.zeros(0, 1, planner.model.embed_dim, device=device)
            return empty, torch.zeros(0, dtype=torch.long, device=device)
        with progress_bar(chosen.name) if shown else contextlib.nullcontext() as advance:
            if not views:
                found = image_features(
                    planner.model, chosen, workers=config.workers, cache=config.feature_folder, frozen=True,
                    precision=config.precision, progress=advance,
                )  # fmt: skip
                return found.rows["feature"].to(device)[:, None], found.labels_N.to(device)
            prepare = functools.partial(planner.model.preprocess.train, scale=(config.smallest_crop, 1.0))
            bank = FeatureCache(planner, chosen, prepare, config.seed, config.workers)
            bank.fill([Image(state="frozen")], views, True, advance)
        there = [i for i, key in enumerate(chosen.keys) if key not in bank.skipped]
        (features_NVD,) = bank.tables.values()
        return features_NVD[there], torch.tensor(chosen.labels, device=device)[there]

    def text(view: TextView) -> Tensor:
        f = planner.features(task.classes, task.templates, None)
        planner.fill(f, [read := Text(view, "frozen")])
        return f.raw[read]

    return planner.head.solve(FeatureTask(images, text, planner.model.scale_and_bias(True)[0]), config.seed)
