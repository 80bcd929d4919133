"""ARF: anchor-based robust fine-tuning (Han et al. 2024, arXiv 2404.06244): rich text given back to a fine-tuning.

x are the images with prompts t of their classes and captions c, (u, v) pairs retrieved for them; l is InfoNCE.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from steadyclip.anchors import Anchors, Captions, RetrievedPairs, read_anchors, read_captions
from steadyclip.core.errors import DataError, UsageError
from steadyclip.methods.base import Batch, Stream, register
from steadyclip.methods.flyp import FLYP, encode_distinct
from steadyclip.models import DualEncoder
from steadyclip.objectives import info_nce

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask


@register
@dataclass(frozen=True)
class ARF(FLYP):
    """FLYP, held by two kinds of anchors: captions of its own images, and pairs like those of the pretraining.

    Stated by the paper: both kinds of anchors, a contrastive loss for each beside the one with class prompts, and that
    both encoders are trained. That the three are separate softmaxes of equal weight is our reading.
    """

    name = "arf"
    summary = "FLYP with captions of its images and retrieved image-text pairs as anchors"
    source = "Han et al. 2024 (ARF, arXiv 2404.06244), our reading of it; base term and recipe of FLYP (2023)"

    captions: Literal["own", "class"] | Path = "own"
    """Captions of the training images: the data set's own column, a file of `steadyclip anchors caption`, or (class: a
    control) a second class prompt in the place of each."""
    anchors: Path | None = None
    """Retrieved pairs: a file of `steadyclip anchors retrieve`, or (a control) of random pairs of the same pool."""
    l_c: float = 1.0
    """Weight of the caption term; 0 leaves captions out."""
    l_r: float = 1.0
    """Weight of the term of retrieved pairs; 0 leaves them out."""
    pairs: Literal["retrieved", "distinct"] = "retrieved"
    """A pair is drawn as often as it was retrieved, or each pair of the pool once an epoch."""
    pair_crop: float = 0.9
    """Smallest random crop of a retrieved image, as a share of its area; 1 prepares it as for evaluation."""

    def __post_init__(self) -> None:
        for knob in ("l_c", "l_r"):
            self.require(knob, getattr(self, knob) >= 0, "0 or more")
        self.require("pair_crop", 0 < self.pair_crop <= 1, "a share above 0, up to 1")

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """l(x, t) + l_c l(x, c) + l_r l(u, v), in three softmaxes; the features of x are computed once."""
        image_BD = model.encode_image(batch.images_BCHW)
        terms = {"prompts": self.prompt_loss(model, batch, image_BD)}
        if self.l_c and self.captions == "class":
            terms["captions"] = self.l_c * self.prompt_loss(model, batch, image_BD, again=True)
        elif self.l_c:
            caption_BD = encode_distinct(model, batch.streams["captions"]["texts"])
            terms["captions"] = self.l_c * info_nce(model, image_BD, caption_BD)
        if self.l_r:
            pairs = batch.streams["pairs"]
            u_BD, v_BD = model.encode_image(pairs["images_BCHW"]), encode_distinct(model, pairs["texts"])
            terms["pairs"] = self.l_r * info_nce(model, u_BD, v_BD)
        return terms

    def streams(self, model: DualEncoder, task: ImageTask) -> Mapping[str, Stream]:
        """Captions of the very images of a batch, and a batch of its own of retrieved pairs.

        Raises:
            UsageError: pairs are wanted and no anchor file is named.
            DataError: a file is missing, of another kind, or of other images; a training image has no caption.
        """
        streams: dict[str, Stream] = {}
        if self.l_c and self.captions != "class":
            captions = Captions(task.train)
            if isinstance(self.captions, Path):
                captions = Captions(read_captions(self.captions), str(self.captions))
            streams["captions"] = _OfImages(captions, task.train)
        if self.l_r:
            if self.anchors is None:
                raise UsageError(
                    f"method {self.name!r} takes retrieved pairs: name a file of `steadyclip anchors retrieve` with "
                    "--knobs anchors=FILE, or leave them out with --knobs l_r=0."
                )
            scale = (self.pair_crop, 1.0) if self.pair_crop < 1 else None
            anchors = _of_images(read_anchors(self.anchors), task.train)
            streams["pairs"] = RetrievedPairs(anchors, model.preprocess, self.pairs, scale)
        return streams


class _OfImages:
    """The caption of each image of a batch."""

    of_images = True

    def __init__(self, captions: Captions, images: ImageSet) -> None:
        captions.check(images)
        self.texts = captions.texts(images.keys)

    def __len__(self) -> int:
        return len(self.texts)

    def item(self, index: int, rng: Any) -> dict[str, Any]:
        return {"text": self.texts[index]}

    def collate(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"texts": tuple(item["text"] for item in items)}


def _of_images(anchors: Anchors, images: ImageSet) -> Anchors:
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
