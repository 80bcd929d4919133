"""Whether an export says the same as what it was made of, on the same images.

Shapes: N images, C classes, D feature width, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from steadyclip.core.errors import SteadyClipError
from steadyclip.data.decode import UnreadableImage
from steadyclip.deploy.engine import TorchEngine

if TYPE_CHECKING:
    from steadyclip.data import ImageData

AT_ONCE = 64
"""Images in a pass of a check."""
TEXTS = 32
"""Prompts that the text towers are compared on, at most."""
_TIE = 1e-3
_GONE = "(nothing was written)."


class ExportFailed(SteadyClipError):
    """What was written does not say the same when it is read back; it has been removed."""


@dataclass(frozen=True)
class Pictures:
    """Images to compare on; ``made`` says that they are drawn at random, as no data was given."""

    images: tuple[Image.Image, ...]
    made: bool

    @property
    def words(self) -> str:
        return f"{len(self.images)} {'made images (give --data for real ones)' if self.made else 'images'}"


def pictures_of(data: ImageData | None, number: int) -> Pictures:
    """``number`` images spread over the validation images of ``data``, else over its other ones; or made ones."""
    if data is None:
        return Pictures(tuple(_made(place) for place in range(number)), made=True)
    parts = [data.splits[split] for split in ("val", "train", "test") if len(data.splits[split])]
    images = parts[0]
    chosen = np.unique(np.linspace(0, len(images) - 1, min(number, len(images))).round().astype(int))
    found = []
    for index in chosen.tolist():
        try:
            found.append(images.read(index))
        except UnreadableImage:
            continue
    if not found:
        raise UnreadableImage(data.name, "none of the images to compare on can be read")
    return Pictures(tuple(found), made=False)


def _made(seed: int) -> Image.Image:
    """Shapes on a gradient with noise, of a size and an aspect ratio of its own."""
    rng = np.random.default_rng(seed)
    width, height = (int(side) for side in rng.integers(24, 640, 2))
    start, end = rng.integers(0, 256, (2, 3))
    share_W = np.linspace(0, 1, width)[None, :, None]
    levels_HWC = start * (1 - share_W) + end * share_W + rng.normal(0, 12, (height, width, 3))
    image = Image.fromarray(levels_HWC.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        (x0, x1), (y0, y1) = sorted(rng.integers(0, width, 2).tolist()), sorted(rng.integers(0, height, 2).tolist())
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x0, y0, x1, y1), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


@dataclass(frozen=True)
class Reference:
    """What the model said of ``pictures`` before it was exported.

    Attributes:
        levels: (N, H, W, 3) uint8, what the model sees.
        pixels: (N, 3, H, W) float32.
        features: (N, D) of length 1.
        logits: (N, C).
        texts: some prompts; none where the model takes no plain ones.
        text_features: theirs, of length 1.
    """

    pictures: Pictures
    levels: np.ndarray
    pixels: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    texts: tuple[str, ...]
    text_features: np.ndarray

    @classmethod
    def of(cls, engine: TorchEngine, pictures: Pictures) -> Reference:
        levels = np.stack([engine.pixels.levels(image) for image in pictures.images])
        pixels = engine.pixels.normalized(levels)
        features, logits = by_parts(engine.outputs, pixels)
        texts: tuple[str, ...] = ()
        if engine.model.prompted is None:  # where learned tokens precede the words, no plain graph or file takes texts
            texts = tuple(engine.templates[-1].replace("{}", name) for name in engine.names[:TEXTS])
        rows = engine.text(texts) if texts else np.empty((0, features.shape[1]), np.float32)
        return cls(pictures, levels, pixels, features, logits, texts, rows)

    @property
    def unit(self) -> float:
        """What differences of logits are measured in: 1, or less where a head gives the classes nearly the same."""
        spread = float(np.median(np.ptp(self.logits, axis=1)))
        return min(1.0, spread) if spread > 0 else 1.0


def by_parts(
    compute: Callable[[np.ndarray], Sequence[np.ndarray]], rows: np.ndarray, size: int = AT_ONCE
) -> list[np.ndarray]:
    """The outputs of ``compute`` for all ``rows``, ``size`` of them at a time."""
    parts = [compute(rows[start : start + size]) for start in range(0, len(rows), size)]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


@dataclass(frozen=True)
class Tolerance:
    """What must hold: the smallest cosine of features, the largest difference of features and of logits, in
    ``Reference.unit`` (None: not asked), the share of equal first names."""

    cosine: float
    features: float | None
    logits: float | None
    names: float


EXACT = Tolerance(1 - 1e-5, 1e-4, 1e-3, 1.0)
HALF = Tolerance(0.9999, None, None, 0.995)
INT8 = Tolerance(0.99, None, None, 0.97)


def compare(reference: Reference, features_ND: np.ndarray, logits_NC: np.ndarray) -> dict[str, Any]:
    """Figures of an export: its features (of any length) and logits of the reference's images.

    First names are equal, too, where the reference itself has the two within 0.001 of its ``unit``.
    """
    first_N = logits_NC.argmax(axis=1)
    own_N = np.take_along_axis(reference.logits, first_N[:, None], axis=1)[:, 0]
    equal_N = own_N >= reference.logits.max(axis=1) - _TIE * reference.unit
    finite = bool(np.isfinite(logits_NC).all())
    return {
        "images": len(first_N),
        "made_images": reference.pictures.made,
        **compare_features(reference.features, features_ND),
        "largest_logit_difference": float(np.abs(logits_NC - reference.logits).max()) if finite else None,
        "logit_unit": reference.unit,
        "equal_first_names": int(equal_N.sum()) if finite else 0,
    }


def compare_features(own_ND: np.ndarray, features_ND: np.ndarray) -> dict[str, Any]:
    """Smallest cosine and largest difference of features, each row brought to length 1; None if some are not finite."""
    if not np.isfinite(features_ND).all():
        return {"smallest_cosine": None, "largest_feature_difference": None}
    unit_ND = features_ND / np.linalg.norm(features_ND, axis=1, keepdims=True).clip(min=1e-12)
    cosine, difference = (unit_ND * own_ND).sum(axis=1).min(), np.abs(unit_ND - own_ND).max()
    return {"smallest_cosine": float(cosine), "largest_feature_difference": float(difference)}


def need_texts(what: str, reference: Reference, features_MD: np.ndarray, tolerance: Tolerance) -> dict[str, Any]:
    """Figures of the text tower of an export, by its features of ``reference.texts``.

    Raises:
        ExportFailed: they are not within ``tolerance``.
    """
    found = compare_features(reference.text_features, features_MD)
    need_features(f"{what}, texts", found, tolerance)
    return {"texts": len(features_MD), **found}


def need_features(what: str, figures: dict[str, Any], tolerance: Tolerance) -> None:
    """Raises ExportFailed unless figures of ``compare_features`` are within ``tolerance``."""
    cosine, difference = figures["smallest_cosine"], figures["largest_feature_difference"]
    if cosine is None or cosine < tolerance.cosine or difference > (tolerance.features or 2):
        raise ExportFailed(
            f"{what}: other features than the model's (cosine {cosine}, up to {difference} apart) {_GONE}"
        )


def spelled(what: str, figures: dict[str, Any]) -> str:
    """Figures of ``compare`` as a line for people."""
    if None in figures.values():
        return f"{what}: some numbers are not finite"
    on = "made images" if figures["made_images"] else "images"
    return (
        f"{what}: {figures['equal_first_names']} of {figures['images']} first names equal on {on}, cosine of features "
        f"at least {figures['smallest_cosine']:.7f}, logits differ by at most {figures['largest_logit_difference']:.1e}"
    )


def holds(figures: dict[str, Any], tolerance: Tolerance) -> bool:
    """Whether figures of ``compare`` are within ``tolerance``."""
    if None in figures.values():
        return False
    return (
        figures["smallest_cosine"] >= tolerance.cosine
        and (tolerance.features is None or figures["largest_feature_difference"] <= tolerance.features)
        and (
            tolerance.logits is None or figures["largest_logit_difference"] <= tolerance.logits * figures["logit_unit"]
        )
        and figures["equal_first_names"] >= tolerance.names * figures["images"]
    )


def need(what: str, figures: dict[str, Any], tolerance: Tolerance) -> None:
    """Raises ExportFailed unless ``figures`` are within ``tolerance``."""
    if not holds(figures, tolerance):
        logits = "" if tolerance.logits is None else f", logits within {tolerance.logits * figures['logit_unit']:g}"
        raise ExportFailed(
            f"{spelled(what, figures)}; needed are {100 * tolerance.names:g} % equal first names and a cosine of "
            f"{tolerance.cosine:g}{logits} {_GONE}"
        )
