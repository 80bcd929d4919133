"""Names for single images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from steadyclip.data import read_image
from steadyclip.evaluation import Scorer
from steadyclip.methods.base import Method
from steadyclip.models import DualEncoder


@dataclass(frozen=True)
class Prediction:
    """The best names for one image, best first, with the softmax over all names."""

    path: str
    names: tuple[str, ...]
    probabilities: tuple[float, ...]


@torch.inference_mode()
def predict(
    model: DualEncoder,
    method: Method,
    paths: Sequence[str | Path],
    names: Sequence[str],
    templates: Sequence[str],
    *,
    top: int = 5,
    batch_size: int = 64,
) -> list[Prediction]:
    """One prediction for each image, in order.

    Args:
        names: classes to choose among; a method that cannot name new classes takes only those it was trained on.
        templates: prompts with ``{}`` for the name.
        top: how many names to give, at most all of them.

    Raises:
        DataError: an image is not there or cannot be read.
        NoHead: the method cannot classify among these names.
    """
    model.eval()
    scorer = Scorer(model, method, names, templates)
    found = []
    for start in range(0, len(paths), batch_size):
        part = paths[start : start + batch_size]
        images_BCHW = torch.stack([model.preprocess(read_image(path)) for path in part])
        probabilities_BC = scorer.logits(model.run("image", images_BCHW.to(model.device))).softmax(-1)
        best_BK = probabilities_BC.topk(min(top, len(names)))
        for path, values_K, labels_K in zip(part, best_BK.values.tolist(), best_BK.indices.tolist(), strict=True):
            found.append(Prediction(str(path), tuple(str(names[i]) for i in labels_K), tuple(values_K)))
    return found
