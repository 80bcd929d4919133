"""OrthCR and its later form OrthSR: orthogonal maps of feed-forward weights, held to the frozen model.

p are predictions of the tuned model and p0 of the frozen one; p_a is tuned images by frozen texts, p_b frozen images by
tuned texts; x' is x with a square cut out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.adapters import attach_orthogonal
from steadyclip.data.cutout import attentive_cutout, cutout
from steadyclip.methods.base import Batch, Method, register
from steadyclip.methods.recipe import Recipe
from steadyclip.models import DualEncoder
from steadyclip.objectives import kl_from


@dataclass(frozen=True)
class _Orthogonal(Method):
    """What both forms share: the orthogonal layer, the cut view, and the sum of the terms."""

    # our reading of what is not public: Adam between 1e-5 and 1e-4, 5 to 20 epochs, batch 4 to 32
    recipe = Recipe(learning_rate=1e-5, epochs=10, batch_size=32)

    layers: tuple[Literal["q", "k", "v", "out", "fc1", "fc2"], ...] = ("fc1", "fc2")
    """Which linear layers of a block get a map A on their input side; the paper's are fc1, fc2."""
    towers: Literal["both", "image", "text"] = "both"
    """Which towers are adapted."""
    blocks: int = 4
    """Diagonal blocks of each A; the published parameter count says 4."""
    constraint: Literal["cayley", "none"] = "cayley"
    """A is the Cayley map of its generator P, or (none: a control) I + P with the same parameters."""
    inverse: Literal["exact", "neumann"] = "exact"
    """(I + S)^-1 by a linear solve, or by the first terms of its series."""
    neumann_terms: int = 5
    """Terms of the series, for inverse=neumann."""
    storage: Literal["full", "packed"] = "full"
    """Keep P, as the published count says, or only the triangle that matters: half of the memory, the same maths."""
    rotate: Literal["auto", "activations", "weights"] = "auto"
    """What is multiplied by A in training; auto takes what costs less."""
    cutout: Literal["plain", "attentive", "off"] = "plain"
    """The square of x' is random, or where the frozen model sees the true class most; off leaves x' out."""
    side: float = 0.5
    """Side of that square, as a share of the image (our reading)."""
    l1: float = 1.5
    """Weight of the regularization on x."""
    l2: float = 1.0
    """Weight of the regularization on x'."""

    def __post_init__(self) -> None:
        distinct = bool(self.layers) and len({*self.layers}) == len(self.layers)
        self.require("layers", distinct, "one layer or more, each once")
        self.require("blocks", self.blocks >= 1, "at least 1")
        self.require("neumann_terms", self.neumann_terms >= 1, "at least 1")
        self.require("storage", self.storage == "full" or self.constraint == "cayley", "full where constraint is none")
        self.require("side", 0 < self.side < 1, "a share between 0 and 1")
        self.require("l1", self.l1 >= 0, "0 or more")
        self.require("l2", self.l2 >= 0, "0 or more")

    def adapt(self, model: DualEncoder, classes: Sequence[str]) -> None:
        model.requires_grad_(False)
        attach_orthogonal(
            model,
            layers=self.layers,
            towers=("image", "text") if self.towers == "both" else (self.towers,),
            blocks=self.blocks,
            constraint=self.constraint,
            inverse=self.inverse,
            terms=self.neumann_terms,
            storage=self.storage,
            rotate=self.rotate,
        )

    def loss(self, model: DualEncoder, batch: Batch) -> dict[str, Tensor]:
        """CE(p(x), y) + CE(p(x'), y) + l1 R(x) + l2 R(x')."""
        images_VBCHW, frozen_image_VBD, frozen_text_CD = self._views(model, batch)
        image_VBD = model.encode_image(images_VBCHW.flatten(0, 1)).unflatten(0, images_VBCHW.shape[:2])
        text_CD = model.encode_text(batch.prompts)
        terms = {}
        for v, (view, weight) in enumerate((("", self.l1), ("_cut", self.l2))[: len(image_VBD)]):
            terms[f"cross_entropy{view}"] = F.cross_entropy(model.logits(image_VBD[v], text_CD), batch.labels_B)
            if frozen_image_VBD is not None and weight:
                regularizer = self.regularizer(
                    model, (image_VBD[v], text_CD), (frozen_image_VBD[v], frozen_text_CD), batch.labels_B
                )
                terms[f"regularization{view}"] = weight * regularizer
        return terms

    def _views(self, model: DualEncoder, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """x and x', their frozen features where they are needed (each computed once), and those of the prompts.

        (V, B, C, H, W), (V, B, D) or None, (C, D), with V = 2, or 1 without a cut view.
        """
        images_BCHW, text_CD = batch.images_BCHW, model.frozen_text(batch.prompts)
        views, image_BD = [images_BCHW], None
        with model.frozen():
            if self.cutout == "attentive":
                image_BD, patch_BYXD = model.encode_patches(images_BCHW)
                similarity_BYX = torch.einsum("byxd,bd->byx", patch_BYXD, text_CD[batch.labels_B])
                views.append(attentive_cutout(images_BCHW, similarity_BYX, self.side))
            elif self.cutout == "plain":
                views.append(cutout(images_BCHW, self.side))
            images_VBCHW = torch.stack(views)
            if not (self.l1 or self.l2):
                return images_VBCHW, None, text_CD
            known = [] if image_BD is None else [image_BD]
            rest = model.encode_image(torch.cat(views[len(known) :]))
            return images_VBCHW, torch.cat([*known, rest]).unflatten(0, images_VBCHW.shape[:2]), text_CD

    def regularizer(
        self, model: DualEncoder, tuned: tuple[Tensor, Tensor], frozen: tuple[Tensor, Tensor], labels_B: Tensor
    ) -> Tensor:
        """R of one view, from its image features (B, D) and the text features (C, D) of both models."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class OrthCR(_Orthogonal):
    """Each tower, tuned, must agree with the other one, frozen: R = KL(p0 || p_a) + KL(p0 || p_b)."""

    name = "orthcr"
    summary = "orthogonal maps of the feed-forward weights, cross-regularization, Cutout"
    source = (
        "our reading of OrthCR (Li et al. 2024, arXiv 2407.08374 v1): the orthogonal layer, the bypass through initial "
        "weights and Cutout are the paper's, the formula of the regularization is ours"
    )

    cross: Literal["kl", "ce"] = "kl"
    """R as above, or CE(p_a, y) + CE(p_b, y); the paper's own formula is not public."""

    def regularizer(
        self, model: DualEncoder, tuned: tuple[Tensor, Tensor], frozen: tuple[Tensor, Tensor], labels_B: Tensor
    ) -> Tensor:
        crossed = model.logits(tuned[0], frozen[1]), model.logits(frozen[0], tuned[1])
        if self.cross == "ce":
            return F.cross_entropy(crossed[0], labels_B) + F.cross_entropy(crossed[1], labels_B)
        teacher_BC = model.logits(*frozen)
        return kl_from(teacher_BC, crossed[0]) + kl_from(teacher_BC, crossed[1])


@register
@dataclass(frozen=True)
class OrthSR(_Orthogonal):
    """The tuned model must agree with the frozen one on x and on x': R = KL(p0 || p)."""

    name = "orthsr"
    summary = "orthogonal maps of the feed-forward weights, self-regularization, attentive Cutout"
    source = (
        "our reading of OrthSR (Li et al. 2024, arXiv 2407.08374 v3): the terms, l1 = 1.5 and l2 = 1 are the paper's; "
        "which of the two belongs to the cut view, and how a region is chosen, is ours"
    )

    cutout: Literal["plain", "attentive", "off"] = "attentive"
    """The square of x' is random, or where the frozen model sees the true class most; off leaves x' out."""

    def regularizer(
        self, model: DualEncoder, tuned: tuple[Tensor, Tensor], frozen: tuple[Tensor, Tensor], labels_B: Tensor
    ) -> Tensor:
        return kl_from(model.logits(*frozen), model.logits(*tuned))
