"""What a method takes from anchors: the captions of its own images, and a stream of retrieved pairs.

B items in a batch, C channels, H W pixels.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from steadyclip.anchors.captions import read_captions
from steadyclip.anchors.pairs import Anchors, read_anchors
from steadyclip.core.errors import DataError, UsageError
from steadyclip.data.decode import decode, quiet
from steadyclip.objectives.streams import Stream, StreamSpec

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask
    from steadyclip.models import DualEncoder, Preprocess

Order = Literal["retrieved", "distinct"]


class Captions:
    """Captions by image. Not drawn like a stream: a caption is that of an image of the batch, looked up by its key."""

    def __init__(self, source: ImageSet | Mapping[str, str], name: str = "") -> None:
        """``source``: images that carry captions, or captions by key (``read_captions``); ``name``: for errors."""
        if isinstance(source, Mapping):
            pairs, default = source.items(), "these captions"
        else:
            pairs, default = zip(source.keys, source.captions, strict=True), f"the captions of {source.name}"
        self._texts = {key: text for key, text in pairs if text and text.strip()}
        self.name = name or default

    def __len__(self) -> int:
        return len(self._texts)

    def get(self, key: str) -> str:
        """The caption of one image, empty if it has none."""
        return self._texts.get(key, "")

    def texts(self, keys: Sequence[str]) -> list[str]:
        """The caption of each image. Raises ``DataError`` where one has none."""
        for key in keys:
            if key not in self._texts:
                raise DataError(f"{self.name} have none for {key}. Complete them with `steadyclip anchors caption`.")
        return [self._texts[key] for key in keys]

    def check(self, images: ImageSet) -> None:
        """See that every image has a caption; to call before a training, not in it.

        Raises:
            DataError: some have none; the line counts them, and the captions of images that are not in the set.
        """
        missing = [key for key in images.keys if key not in self._texts]
        if not missing:
            return
        foreign = sorted(self._texts.keys() - set(images.keys))
        others = f"; {len(foreign)} captions are of other images, for instance {foreign[0]}" if foreign else ""
        raise DataError(
            f"{self.name}: {len(missing)} of {len(images)} images of {images.name} have no caption, for instance "
            f"{missing[0]}{others}. Complete them with `steadyclip anchors caption`."
        )


class _Collated:
    """A stream whose items may have ``image`` (C, H, W) float32, ``text`` and ``key``."""

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``images_BCHW``, and ``texts`` and ``keys`` as tuples of B strings: a pair of the pool may occur twice."""
        names = {"text": "texts", "key": "keys"}
        batch: dict[str, Any] = {
            many: tuple(item[one] for item in items) for one, many in names.items() if one in items[0]
        }
        if "image" in items[0]:
            batch["images_BCHW"] = torch.stack([item["image"] for item in items])
        return batch


class RetrievedPairs(_Collated):
    """A stream of retrieved image-text pairs, in batches of their own."""

    def __init__(
        self,
        anchors: Anchors,
        preprocess: Preprocess,
        order: Order = "retrieved",
        scale: tuple[float, float] | None = (0.08, 1.0),
    ) -> None:
        """One pass over the pairs is an epoch of the stream.

        Args:
            anchors: where the pairs are.
            preprocess: the model's.
            order: "retrieved" takes a pair as often as it was retrieved, "distinct" takes each pair of the pool once.
            scale: share of the image that a random crop covers, with a flip half of the time; None for evaluation
                pixels.
        """
        self.anchors, self.preprocess, self.scale = anchors, preprocess, scale
        self.rows = range(len(anchors)) if order == "retrieved" else anchors.distinct

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        """``image``, ``text``, and ``key``, that of the pool.

        Raises:
            UnreadableImage: the image in the anchor file cannot be decoded.
        """
        pair = self.anchors[self.rows[index]]
        with quiet():
            image = decode(pair.image, f"{self.anchors.path.name}: {pair.pool_key}")
        pixels = self.preprocess(image) if self.scale is None else self.preprocess.train(image, rng, scale=self.scale)
        return {"image": pixels, "text": pair.text, "key": pair.pool_key}


class CaptionsOfImages(StreamSpec):
    """The caption of each image of a batch.

    Attributes:
        captions: "own": those of the data set; or a file of `steadyclip anchors caption`.
    """

    captions: str | Path = "own"

    def build(self, model: DualEncoder, task: ImageTask) -> Stream:
        captions = Captions(task.train)
        if isinstance(self.captions, Path):
            captions = Captions(read_captions(self.captions), str(self.captions))
        captions.check(task.train)
        return _TextsOfImages(captions.texts(task.train.keys))


class PairsForImages(StreamSpec):
    """A batch of its own of pairs that were retrieved for the training images.

    Attributes:
        anchors: a file of `steadyclip anchors retrieve`.
        order: a pair as often as it was retrieved, or each pair of the pool once an epoch.
        crop: smallest random crop of an image, as a share of its area; 1 prepares it as for evaluation.
    """

    anchors: Path | None = None
    order: Order = "retrieved"
    crop: float = 0.9

    def build(self, model: DualEncoder, task: ImageTask) -> Stream:
        if self.anchors is None:
            raise UsageError(
                "retrieved pairs are trained on: name a file of `steadyclip anchors retrieve`, as in "
                "arf[anchors=FILE], or leave them out with arf[l_r=0]."
            )
        anchors = _only_for(read_anchors(self.anchors), task.train)
        return RetrievedPairs(anchors, model.preprocess, self.order, (self.crop, 1.0) if self.crop < 1 else None)

    def example(self, model: DualEncoder, task: ImageTask) -> Stream:
        return _PairsOfTask(task, model.preprocess)


class _TextsOfImages(_Collated):
    """One text for each training image."""

    of_images = True

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        return {"text": self.texts[index]}


class _PairsOfTask(_TextsOfImages):
    """The training images themselves with a text each, in the place of retrieved pairs."""

    of_images = False

    def __init__(self, task: ImageTask, preprocess: Preprocess) -> None:
        super().__init__([f"one {task.classes[label]}" for label in task.train.labels])
        self.images, self.preprocess = task.train, preprocess

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        return {"text": self.texts[index], "image": self.preprocess(self.images.read(index))}


def _only_for(anchors: Anchors, images: ImageSet) -> Anchors:
    """What was retrieved for ``images``: pairs for other images of the data set, which are not trained on, would tell
    something of them."""
    import pyarrow as pa

    wanted = set(images.keys)
    missing = sorted(wanted - set(anchors.keys))
    if len(missing) > images.max_unreadable * len(images):  # a few may have had nothing but near-duplicates
        raise DataError(
            f"{anchors.path}: nothing was retrieved for {len(missing)} of {len(images)} training images of "
            f"{images.name}, for instance {missing[0]}. Make it anew with `steadyclip anchors retrieve`."
        )
    chosen = [key in wanted for key in anchors.table.column("query").to_pylist()]
    return dataclasses.replace(anchors, table=anchors.table.filter(pa.array(chosen)))
