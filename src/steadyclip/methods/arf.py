"""ARF: anchor-based robust fine-tuning (Han et al. 2024, arXiv 2404.06244): rich text given back to a fine-tuning.

x are the images with prompts t of their classes and captions c, (u, v) pairs retrieved for them; l is InfoNCE.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from steadyclip.anchors.streams import CaptionsOfImages, PairsForImages
from steadyclip.methods.flyp import FLYP
from steadyclip.methods.registry import register
from steadyclip.objectives import Image, InfoNCE, Objective, OfStream, Text, TextsOfStream, as_objective
from steadyclip.objectives.streams import StreamSpec


@register
class ARF(FLYP):
    """FLYP, held by two kinds of anchors: l(x, t) + l_c l(x, c) + l_r l(u, v), in three softmaxes.

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

    def objective(self) -> Objective:
        own = self.prompts(again=True) if self.captions == "class" else InfoNCE(Text(TextsOfStream(stream="captions")))
        pairs = InfoNCE(Text(TextsOfStream(stream="pairs")), Image(OfStream("pairs")))
        return as_objective(self.prompts()) + self.l_c * own + self.l_r * pairs

    def streams(self) -> Mapping[str, StreamSpec]:
        streams: dict[str, StreamSpec] = {}
        if self.l_c and self.captions != "class":
            streams["captions"] = CaptionsOfImages(self.captions)
        if self.l_r:
            streams["pairs"] = PairsForImages(self.anchors, self.pairs, self.pair_crop)
        return streams
