"""Heads on given features: nothing goes through a tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from steadyclip.heads import FeatureTask, Head
from steadyclip.models import DualEncoder
from steadyclip.objectives import Batch, Features, Image, TextView

Labeled = tuple[Tensor, Tensor]


def clusters(seed: int, noise: float = 0.7, per_class: int = 20) -> Labeled:
    """Unit features around five centers, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    centers_CD = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    labels_N = torch.arange(5).repeat(per_class)
    features_ND = centers_CD[labels_N] + noise * torch.randn(len(labels_N), 24, generator=generator)
    return F.normalize(features_ND, dim=-1), labels_N


def task(train: Labeled, val: Labeled | None = None, text_CD: Tensor | None = None) -> FeatureTask:
    """What a head fills itself from: one view of each image, and the texts of the classes if there are some."""
    empty = train[0][:0], train[1][:0]

    def images(split: str, views: int) -> Labeled:
        features_ND, labels_N = train if split == "train" else val or empty
        return features_ND[:, None], labels_N

    def text(view: TextView) -> Tensor:
        assert text_CD is not None, "no text is read"
        return text_CD

    return FeatureTask(images, text, torch.tensor(20.0))


def logits(model: DualEncoder, head: Head, image_BD: Tensor, names: Sequence[str], text_CD: Tensor | None = None):
    """What the head says of given features of images, with given features of class texts."""
    f = Features(model, head, frozenset(), names, (), Batch(torch.zeros(len(image_BD), dtype=torch.long)), scoring=True)
    f.raw[f.canonical(Image())] = image_BD
    for read in head.reads(scoring=True):
        f.raw[f.canonical(read)] = text_CD if text_CD is not None else image_BD[:0]
    with torch.no_grad():
        return f.logits()
