"""Features of the frozen model for a whole training: whatever lies below all trained parameters is computed once.

Shapes: N training images, V augmented views of each, B images in a batch, D feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from steadyclip.core.progress import Progress, progress_bar
from steadyclip.data.batches import loader
from steadyclip.heads import FeatureTask
from steadyclip.methods.planner import Planner
from steadyclip.models.features import image_features
from steadyclip.objectives import Batch, Image, Read, Text, TextView
from steadyclip.training.config import TrainConfig
from steadyclip.training.feed import transform
from steadyclip.training.step import processes

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask

_AT_ONCE = 64


def cacheable(reads: Iterable[Read]) -> list[Read]:
    """The reads whose rows are the same whenever an image is seen in the same view. Patches would be, too, but take two
    hundred times the memory."""
    return [r for r in reads if r.tower == "image" and r.state == "frozen" and r.view.finite and r.what != "patches"]


class FeatureCache:
    """Raw features of the frozen model for every training image and view, on the model's device.

    Attributes:
        tables: rows (N, ...) by read and view.
        skipped: images that could not be read: key -> reason.
    """

    def __init__(self, planner: Planner, images: ImageSet, config: TrainConfig, augment: bool) -> None:
        """Without ``augment``, the images are prepared as for evaluation."""
        self.planner, self.images, self.config, self.augment = planner, images, config, augment
        self.tables: dict[tuple[Read, int], Tensor] = {}
        self.skipped: dict[str, str] = {}

    @torch.no_grad()
    def fill(self, reads: Iterable[Read], views: int, title: str) -> None:
        """Encode all images in the first ``views`` views, unless they are there; several processes share the images.

        Raises:
            DataError: more images cannot be read than the set allows.
        """
        (world, rank), device, done = processes(), self.planner.model.device, 0
        reads = sorted(reads, key=repr)  # in the same order in all processes
        missing = {view: [read for read in reads if (read, view) not in self.tables] for view in range(views)}
        missing = {view: reads for view, reads in missing.items() if reads}
        enough = self.planner.model.preprocess.enough(self.config.smallest_crop) if self.augment else None
        with _bar(title, self.config) as advance:
            for view, reads in missing.items():
                batches = loader(
                    self.images, transform(self.planner.model.preprocess, self.config, self.augment),
                    batch_size=_AT_ONCE * world, seed=self.config.seed if self.augment else None, epoch=view,
                    augment=self.augment, workers=self.config.workers, shard=(rank, world), enough=enough,
                )  # fmt: skip
                for images_BCHW, labels_B, index_B in batches:
                    f = self.planner.features((), (), Batch(labels_B.to(device), images_BCHW=images_BCHW.to(device)))
                    self.planner.fill(f, reads)
                    for read in reads:
                        self._table(read, view, f.raw[read])[index_B.to(device)] = f.raw[read]
                    done += len(index_B)
                    if advance:
                        advance(done, len(missing) * len(self.images))
                self.skipped.update(batches.skipped)
        if world > 1:  # a process without any readable image learns the kinds of rows from the others
            told: list[Any] = [None] * world
            dist.all_gather_object(told, (self.skipped, {key: table[:0].cpu() for key, table in self.tables.items()}))
            kinds = {key: like for _, tables in told for key, like in tables.items()}
            self.skipped.update({key: reason for skipped, _ in told for key, reason in skipped.items()})
            for read, view in [(read, view) for view, reads in missing.items() for read in reads]:
                if (read, view) in kinds:
                    dist.all_reduce(self._table(read, view, kinds[read, view]))
        self.images.accept(sorted(self.skipped.items()))

    def _table(self, read: Read, view: int, like: Tensor) -> Tensor:
        """The table of a read in a view, made where there is none yet for rows ``like`` these."""
        if (read, view) not in self.tables:
            rows = like.new_zeros(len(self.images), *like.shape[1:], device=self.planner.model.device)
            self.tables[read, view] = rows
        return self.tables[read, view]

    def rows(self, index_B: Tensor, view: int) -> dict[Read, Tensor]:
        """The rows of some images in one view."""
        return {read: table[index_B.to(table.device)] for (read, of), table in self.tables.items() if of == view}


@torch.no_grad()
def fill_head(
    planner: Planner, task: ImageTask, config: TrainConfig, train: FeatureCache | None = None
) -> tuple[dict[str, Any], int]:
    """Let the head solve itself from features of the frozen model.

    Args:
        train: keeps the features of augmented training images, if they are augmented there as well.

    Returns:
        What the head chose, for the record, and how many images were encoded for it.
    """
    device, encoded = planner.model.device, 0

    def images(split: Literal["train", "val"], views: int) -> tuple[Tensor, Tensor]:
        nonlocal encoded
        chosen = task.train if split == "train" else task.val
        if not len(chosen):
            empty = torch.zeros(0, 1, planner.model.embed_dim, device=device)
            return empty, torch.zeros(0, dtype=torch.long, device=device)
        if not views or not config.augment:
            with _bar(chosen.name, config) as advance:
                found = image_features(
                    planner.model, chosen, workers=config.workers, cache=config.feature_folder, frozen=True,
                    precision=config.precision, progress=advance,
                )  # fmt: skip
            encoded += 0 if found.cached else len(found.keys)
            return found.rows["feature"].to(device)[:, None], found.labels_N.to(device)
        known = train if split == "train" and train and train.augment else None
        bank = known or FeatureCache(planner, chosen, config, augment=True)
        bank.fill([read := Image(state="frozen")], views, chosen.name)
        there = [i for i, key in enumerate(chosen.keys) if key not in bank.skipped]
        encoded += views * len(there)
        features_NVD = torch.stack([bank.tables[read, view][there] for view in range(views)], 1)
        return features_NVD, torch.tensor(chosen.labels, device=device)[there]

    def text(view: TextView) -> Tensor:
        f = planner.features(task.classes, task.templates, None)
        planner.fill(f, [read := Text(view, "frozen")])
        return f.raw[read]

    choices = planner.head.solve(FeatureTask(images, text, planner.model.scale_and_bias(True)[0]), config.seed)
    return choices, encoded


def _bar(title: str, config: TrainConfig) -> AbstractContextManager[Progress | None]:
    shown = config.progress and processes()[1] == 0
    return progress_bar(title) if shown else contextlib.nullcontext()
