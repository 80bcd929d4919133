"""What a method takes from anchors: the captions of its own images, and a stream of retrieved pairs.

B items in a batch, C channels, H W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from steadyclip.anchors.captions import Captions
from steadyclip.anchors.pairs import Anchors, Pair, as_table, read_anchors
from steadyclip.core.errors import UsageError
from steadyclip.core.progress import warn
from steadyclip.data.content import digest_of
from steadyclip.data.decode import decode, quiet
from steadyclip.models.features import cut_texts
from steadyclip.objectives.streams import Stream, StreamSpec

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.models import DualEncoder, Preprocess

Order = Literal["retrieved", "distinct"]


class TextsOfImages:
    """One text for each training image."""

    of_images = True

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        return {"text": self.texts[index]}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``texts``, a tuple of B strings."""
        return {"texts": tuple(item["text"] for item in items)}


class RetrievedPairs:
    """A stream of retrieved image-text pairs; the arguments are the fields of ``PairsForImages``."""

    def __init__(self, anchors: Anchors, preprocess: Preprocess, order: Order = "retrieved", crop: float = 1.0) -> None:
        self.anchors, self.preprocess, self.crop = anchors, preprocess, crop
        self.rows = range(len(anchors)) if order == "retrieved" else anchors.distinct

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digests(self) -> set[str]:
        """What the images of the pairs are, as ``ImageSet.digests``: a run has seen them too."""
        return {digest_of(image.as_py()) for image in self.anchors.table.column("image")}

    def item(self, index: int, rng: random.Random) -> dict[str, Any]:
        """``image`` (C, H, W) uint8 and ``text``.

        Raises:
            UnreadableImage: the image in the anchor file cannot be decoded.
        """
        pair = self.anchors[self.rows[index]]
        with quiet():
            image = decode(pair.image, f"{self.anchors.path.name}: {pair.pool_key}")
        prepare, whole = self.preprocess, self.crop == 1
        pixels = prepare.pixels(image) if whole else prepare.train_pixels(image, rng, scale=(self.crop, 1.0))
        return {"image": pixels, "text": pair.text}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """``images_BCHW``, and ``texts``, a tuple of B strings."""
        return {
            "texts": tuple(item["text"] for item in items),
            "images_BCHW": torch.stack([item["image"] for item in items]),
        }


class CaptionsOfImages(StreamSpec):
    """The caption of each image of a batch.

    Attributes:
        captions: "own": those of the data set; or a file of `steadyclip anchors caption`.
    """

    captions: str | Path = "own"

    def build(self, model: DualEncoder, task: ImageTask) -> Stream:
        captions = Captions.of(task.train, self.captions if isinstance(self.captions, Path) else None)
        captions.check(task.train)
        texts = [captions.texts[key] for key in task.train.keys]
        if cut := cut_texts(model, texts):
            warn(f"{captions.name}: {cut}")
        return TextsOfImages(texts)


class PairsForImages(StreamSpec):
    """Pairs that were retrieved for the training images, in batches of their own. One pass over them is an epoch.

    Attributes:
        anchors: a file of `steadyclip anchors retrieve`.
        order: a pair as often as it was retrieved, or each pair of the pool once an epoch.
        crop: smallest random crop of an image, as a share of its area, with a flip half of the time; 1 prepares it as
            for evaluation.
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
        anchors = read_anchors(self.anchors).only_for(task.train)
        if cut := cut_texts(model, anchors.table.column("text").to_pylist()):
            warn(f"{self.anchors}: {cut}")
        return RetrievedPairs(anchors, model.preprocess, self.order, self.crop)

    def example(self, model: DualEncoder, task: ImageTask) -> Stream:
        """The training images themselves with a text each, in the place of retrieved pairs."""
        images = task.train
        pairs = [
            Pair(key, 1, 1.0, key, f"one {images.classes[label]}", images.store.read(key))
            for key, label in zip(images.keys, images.labels, strict=True)
        ]
        return RetrievedPairs(Anchors(Path("example"), {}, as_table(pairs)), model.preprocess)
