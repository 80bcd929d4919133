"""Temperature and threshold from validation images.

Shapes: N images, C classes.
"""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.provenance import now
from steadyclip.deploy.classifier import CALIBRATION, Calibration, Threshold, identity_of
from steadyclip.deploy.predictor import softmax

if TYPE_CHECKING:
    from steadyclip.data import ImageSet, ImageTask
    from steadyclip.evaluation.records import Run
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder

PRECISION = 0.9
"""What is asked for by default: so large a share of the answers at or above the threshold shall be right."""
_IMAGES, _PER_CLASS = 100, 5
_SMALLEST, _LARGEST = 0.01, 100.0  # temperatures


def calibrate(
    model: DualEncoder,
    method: Method,
    run: Run,
    val: ImageSet,
    *,
    precision: float | None = None,
    keep: float | None = None,
    folder: str | Path | None = None,
    batch_size: int = 64,
    workers: int = 0,
    progress: Any = None,
) -> Calibration:
    """Choose temperature and threshold for the run's own class names and prompts.

    Args:
        val: the run's validation images, and no others: what was trained on would look too sure, and what is tested on
            would be tested twice.
        precision: smallest share of right answers among those that are given; 0.9 if ``keep`` is not given either.
        keep: instead, the share of images that shall be answered.
        folder: of the run: the calibration is written there.

    Raises:
        DataError: fewer than 100 validation images and fewer than 5 in some class, or too many cannot be read.
        UsageError: both shares are given, or one that is not between 0 and 1.
    """
    import torch

    from steadyclip.deploy.opening import run_weights
    from steadyclip.evaluation import Scorer
    from steadyclip.models.features import image_features

    check_shares(precision, keep)
    if why := too_few(val):
        raise DataError(f"{run.task.name}: {why}.")
    exact = "fp32"  # what serves, too, whatever the device
    scorer = Scorer(model, method, run.task.classes, run.task.templates, exact)
    features = image_features(model, val, batch_size=batch_size, workers=workers, precision=exact, progress=progress)
    logits_NC = torch.cat(list(scorer.every(features.rows))).cpu().numpy()
    identity = identity_of(run_weights(run), run.task.classes, run.task.templates)
    found = choose(logits_NC, features.labels_N.numpy(), identity, precision, keep)
    if folder is not None:
        found.write(Path(folder) / CALIBRATION)
    return found


def calibrate_new(model: DualEncoder, method: Method, run: Run, task: ImageTask, folder: Path) -> list[str]:
    """Calibrate a run that was just trained, where it has enough validation images; what came of it, for people."""
    if not method.learns:
        return []
    if why := too_few(task.val):
        return [f"not calibrated: {why}"]
    return calibrate(model, method, run, task.val, folder=folder).lines()


def check_shares(precision: float | None, keep: float | None) -> None:
    """Raises UsageError where both are given, or one is not between 0 and 1."""
    if precision is not None and keep is not None:
        raise UsageError("give --precision or --keep, not both.")
    for flag, share in (("--precision", precision), ("--keep", keep)):
        if share is not None and not 0 < share <= 1:
            raise UsageError(f"{flag} must be above 0 and at most 1, not {share:g}.")


def too_few(val: ImageSet) -> str:
    """Why nothing can be calibrated on ``val``; "" if it can."""
    counts = Counter(val.labels)
    least = min((counts[label] for label in range(len(val.classes))), default=0)
    if len(val) >= _IMAGES or least >= _PER_CLASS:
        return ""
    return (
        f"{len(val)} validation images, {least} in the smallest class: at least {_IMAGES} in all, or {_PER_CLASS} in "
        "each class, are needed to choose a temperature and a threshold"
    )


def choose(
    logits_NC: np.ndarray,
    labels_N: np.ndarray,
    identity: str,
    precision: float | None = None,
    keep: float | None = None,
) -> Calibration:
    """The calibration of validation images with these logits and labels."""
    import torch

    from steadyclip.evaluation.metrics import ece

    temperature = fit_temperature(logits_NC, labels_N)
    correct_N = logits_NC.argmax(axis=1) == labels_N
    plain_N, score_N = (softmax(logits_NC / np.float32(t)).max(axis=1) for t in (1.0, temperature))
    before, after = (ece(torch.from_numpy(each), torch.from_numpy(correct_N)) for each in (plain_N, score_N))
    if keep is None:
        precision = PRECISION if precision is None else precision
        cut, rule = cut_for_precision(score_N, correct_N, precision), f"precision {precision:g}"
    else:
        cut, rule = cut_to_keep(score_N, keep), f"keep {keep:g}"
    threshold = None
    if cut is not None:
        answered_N = score_N >= cut
        kept, right = int(answered_N.sum()), int(correct_N[answered_N].sum())
        shares = (kept / len(labels_N), wilson(kept, len(labels_N)), right / kept, wilson(right, kept))
        threshold = Threshold(cut, rule, *shares)
    return Calibration(
        created=now(), of=identity, temperature=temperature, images=len(labels_N), ece=before, ece_calibrated=after,
        threshold=threshold,
    )  # fmt: skip


def fit_temperature(logits_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """The temperature of least cross-entropy (Guo et al. 2017), between 0.01 and 100.

    The cross-entropy is convex in b = 1 / T, so its slope, mean(E_p[z] - z_y), is brought to 0 by halving.
    """
    z_NC = logits_NC.astype(np.float64)
    z_NC -= z_NC.max(axis=1, keepdims=True)
    own_N = np.take_along_axis(z_NC, labels_N[:, None], axis=1)[:, 0]

    def slope(b: float) -> float:
        p_NC = np.exp(b * z_NC)
        p_NC /= p_NC.sum(axis=1, keepdims=True)
        return float(((p_NC * z_NC).sum(axis=1) - own_N).mean())

    low, high = math.log(1 / _LARGEST), math.log(1 / _SMALLEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return float(f"{math.exp(-low):.6g}")


def cut_for_precision(score_N: np.ndarray, correct_N: np.ndarray, precision: float) -> float | None:
    """A cut just below the smallest score such that of the images at or above it the share ``precision`` is right; None
    if there is no such score."""
    order_N = np.argsort(-score_N, kind="stable")
    share_N = np.cumsum(correct_N[order_N]) / np.arange(1, len(order_N) + 1)
    last_N = np.append(np.diff(score_N[order_N]) != 0, True)  # of images with one score all are answered, or none
    places = np.flatnonzero((share_N >= precision) & last_N)
    return _below(score_N, score_N[order_N[places[-1]]]) if len(places) else None


def cut_to_keep(score_N: np.ndarray, keep: float) -> float:
    """A cut just below the largest score such that at least the share ``keep`` of the images is at or above it."""
    return _below(score_N, np.sort(score_N)[::-1][math.ceil(keep * len(score_N)) - 1])


def _below(score_N: np.ndarray, score: Any) -> float:
    """Midway between ``score`` and the next lower one: the last digits of a score depend on its batch."""
    lower = score_N[score_N < score].max(initial=-1.0)
    return float((score + lower) / 2 if lower >= 0 else 0.999 * score)


def wilson(right: int, of: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    p = right / of
    center, half = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return max(0.0, (center - half) / (1 + z * z / of)), min(1.0, (center + half) / (1 + z * z / of))
