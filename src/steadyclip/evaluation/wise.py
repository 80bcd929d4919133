"""Averages of trained and pretrained weights, theta_a = (1 - a) theta_0 + a theta.

Source: WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903, section 3). Every trained weight is averaged, the logit scale
too where it is trained. A head that started as the zero-shot classifier is averaged with that; other classifiers are
made from class names by the averaged text tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from msgspec.structs import replace

from steadyclip.core.errors import DataError, ModelError, UsageError
from steadyclip.evaluation.records import Record
from steadyclip.evaluation.scoring import evaluate

if TYPE_CHECKING:
    from steadyclip.data import ImageSet
    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder

ALPHAS = tuple(tenths / 10 for tenths in range(11))
"""The points of a curve."""


def check_alpha(alpha: float, name: str = "alpha") -> None:
    """Raises UsageError, with the ``name`` it was given by, where ``alpha`` is not between 0 and 1."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"{name} {alpha:g} must be from 0 (the pretrained weights) to 1 (the trained ones).")


@contextmanager
def averaged(model: DualEncoder, alpha: float) -> Iterator[None]:
    """Inside, the trained weights of ``model`` are (1 - alpha) theta_0 + alpha theta; 0 is the frozen model, 1 the
    trained one, both bit for bit.

    Raises:
        UsageError: ``alpha`` is not between 0 and 1.
        ModelError: what was trained are not the model's own weights and a head that starts from it.
    """
    check_alpha(alpha)
    start, end = model.pretrained_state(), model.trained_state()
    if not start or start.keys() != end.keys():
        what = "a head was trained that does not start as the zero-shot classifier" if end else "nothing was trained"
        what = "adapters were trained, not its own weights" if len(model.adapters) else what
        raise ModelError(f"there are no weights of {model.name} to average: {what}. Evaluate without an alpha.")
    model.load_trained_state({name: torch.lerp(start[name].cpu(), end[name], alpha) for name in end})
    try:
        yield
    finally:
        model.load_trained_state(end)


def evaluate_averaged(
    model: DualEncoder, method: Method, image_set: ImageSet, alphas: Sequence[float] = ALPHAS, **options: Any
) -> list[Record]:
    """One record for each alpha, which stands in ``wise_alpha`` and in the label; ``options`` as for ``evaluate``.

    Raises:
        UsageError, ModelError: as ``averaged``.
    """
    records = []
    for alpha in alphas:
        with averaged(model, alpha):
            record = evaluate(model, method, image_set, **options)
        records.append(at_alpha(record, alpha))
    return records


def at_alpha(record: Record, alpha: float) -> Record:
    """The record with ``alpha`` in ``wise_alpha`` and in the label."""
    named = replace(record.method, label=f"{record.method.label}, alpha {alpha:g}")
    return replace(record, method=named, wise_alpha=alpha)


def choose_alpha(
    model: DualEncoder, method: Method, val: ImageSet, alphas: Sequence[float] = ALPHAS, **options: Any
) -> float:
    """The alpha with the best top-1 on validation images; of equals the smallest, which is nearest to the pretrained
    model.

    Raises:
        DataError: there are no validation images.
        UsageError, ModelError: as ``averaged``.
    """
    if not len(val):
        raise DataError(f"{val.name} has no validation images to choose an alpha on: give one as a number.")
    records = evaluate_averaged(model, method, val, sorted(alphas), **options)
    best = max(records, key=lambda record: record.metrics.top1 if record.metrics else -1.0)  # the first of equals
    assert best.wise_alpha is not None
    return best.wise_alpha
