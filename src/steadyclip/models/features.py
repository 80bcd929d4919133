"""Image features of a whole set, computed once, and kept on disk where the frozen model is asked for.

Shapes: N images, B images in a batch, D feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic
from steadyclip.core.precision import Precision, arithmetic
from steadyclip.core.progress import Progress
from steadyclip.data import loader

if TYPE_CHECKING:
    from steadyclip.data import ImageSet
    from steadyclip.models import DualEncoder


@dataclass(frozen=True)
class ImageFeatures:
    """What the image tower gave for the images that could be read, raw float32 ``rows`` by output (N, ...), and their
    labels (N,) int64, on the CPU.

    ``keys`` are theirs, in the set's order; ``skipped`` lists (key, reason) of the others; ``cached`` says that nothing
    was computed.
    """

    rows: dict[str, Tensor]
    labels_N: Tensor
    keys: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    cached: bool = False

    @property
    def features_ND(self) -> Tensor:
        """(N, D) features of length 1."""
        return F.normalize(self.rows["feature"], dim=-1)


def image_features(
    model: DualEncoder,
    image_set: ImageSet,
    *,
    batch_size: int = 64,
    workers: int = 0,
    cache: str | Path | None = None,
    frozen: bool = False,
    precision: Precision = "fp32",
    progress: Progress | None = None,
) -> ImageFeatures:
    """Features of all readable images of ``image_set`` under the model's evaluation preprocessing.

    Args:
        cache: folder for the features of the frozen model; only with ``frozen``. A cached file is used when weights,
            precision, preprocessing, and the images' names and content are the same and it is undamaged; otherwise the
            features are computed again and written over it.
        frozen: the pretrained model's features, whatever has been trained.
        precision: of the forward passes; features are float32 anyway.
        progress: called after each batch with the images done and the images in all.

    Raises:
        DataError: the set is empty, a class loses all its images, or more cannot be read than the set allows.
        SteadyClipError: the cache cannot be written.
    """
    if cache is not None and not frozen:
        raise ValueError("only the features of the frozen model are cached: pass frozen=True or no cache")
    if not len(image_set):
        raise DataError(f"{image_set.name}: there is no image to score.")
    if cache is None:
        return _encode(model, image_set, batch_size, workers, frozen, precision, progress)
    key = _cache_key(model, image_set, precision)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    stem = Path(cache) / f"features-{digest}"
    features = _read_cache(stem, key)
    if features is None:
        features = _encode(model, image_set, batch_size, workers, frozen, precision, progress)
        _write_cache(stem, key, features)
    return features


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) and no autograd; every module gets its own mode back."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in training:
            module.training = True


def _encode(
    model: DualEncoder,
    image_set: ImageSet,
    batch_size: int,
    workers: int,
    frozen: bool,
    precision: Precision,
    progress: Progress | None,
) -> ImageFeatures:
    batches = loader(image_set, model.preprocess, batch_size=batch_size, workers=workers)
    features, labels, indices, done = [], [], [], 0
    with evaluating(model), arithmetic(model.device, precision), model.frozen() if frozen else nullcontext():
        for images_BCHW, labels_B, index_B in batches:
            # Stays on the device until the end: one wait instead of one per batch.
            features.append(model.run("image", images_BCHW.to(model.device, non_blocking=True)))
            labels.append(labels_B)
            indices.append(index_B)
            done += len(index_B)
            if progress:
                progress(done, len(image_set))
    skipped = tuple((key, reason) for key, reason in batches.skipped)
    image_set.accept(skipped)
    keys = tuple(image_set.keys[i] for i in torch.cat(indices).tolist())
    rows = {what: torch.cat([out[what] for out in features]).cpu() for what in features[0]}
    return ImageFeatures(rows, torch.cat(labels), keys, skipped)


def _cache_key(model: DualEncoder, image_set: ImageSet, precision: Precision) -> dict[str, Any]:
    """Everything the features depend on, and the names that are kept with them."""
    return {
        "weights": model.weights_hash,
        "precision": precision,
        "preprocess": repr(model.preprocess),
        "set": image_set.hash,
        "content": image_set.content,
    }


def _write_cache(stem: Path, key: dict[str, Any], features: ImageFeatures) -> None:
    """Tensors first: a crash in between leaves a manifest whose checksum does not fit, or none."""
    from safetensors.torch import save

    content = save({**features.rows, "labels": features.labels_N})
    manifest = {
        "key": key,
        "sha256": hashlib.sha256(content).hexdigest(),
        "keys": features.keys,
        "skipped": features.skipped,
    }
    write_atomic(stem.with_suffix(".safetensors"), content)
    write_atomic(stem.with_suffix(".json"), json.dumps(manifest, indent=1).encode())


def _read_cache(stem: Path, key: dict[str, Any]) -> ImageFeatures | None:
    """What was written under ``key``, or None when there is nothing, or nothing to be trusted."""
    from safetensors.torch import load

    try:
        manifest = json.loads(stem.with_suffix(".json").read_bytes())
        content = stem.with_suffix(".safetensors").read_bytes()
        if manifest["key"] != key or manifest["sha256"] != hashlib.sha256(content).hexdigest():
            return None
        tensors = load(content)
        skipped = tuple((name, reason) for name, reason in manifest["skipped"])
        labels_N = tensors.pop("labels")
        return ImageFeatures(tensors, labels_N, tuple(manifest["keys"]), skipped, cached=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None
