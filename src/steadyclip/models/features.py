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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from steadyclip.core.errors import DataError
from steadyclip.core.files import write_atomic
from steadyclip.core.precision import Precision, arithmetic
from steadyclip.core.progress import Progress
from steadyclip.data import loader
from steadyclip.models.encoder import DualEncoder, turned_off
from steadyclip.models.weights import digest

if TYPE_CHECKING:
    from steadyclip.data import ImageSet


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
    key = path = None
    if cache is not None:  # everything the features depend on, and the names that are kept with them
        key = [model.weights_hash, precision, repr(model.preprocess), image_set.hash, image_set.content]
        path = Path(cache) / f"features-{_hash(key)}.safetensors"
        if kept := _read(path, key):
            return kept
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
    skipped = tuple((name, reason) for name, reason in batches.skipped)
    image_set.accept(skipped)
    names = tuple(image_set.keys[i] for i in torch.cat(indices).tolist())
    rows = {what: torch.cat([out[what] for out in features]).cpu() for what in features[0]}
    found = ImageFeatures(rows, torch.cat(labels), names, skipped)
    if path is not None:
        _write(path, key, found)
    return found


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) and no autograd; every module gets its own mode back."""
    with turned_off(model.modules(), "training"), torch.inference_mode():
        yield


def _write(path: Path, key: Any, features: ImageFeatures) -> None:
    """One file, in one step; a checksum tells later damage."""
    tensors = {**features.rows, "labels": features.labels_N}
    beside = json.dumps({"key": key, "keys": features.keys, "skipped": features.skipped})
    write_atomic(path, save(tensors, {"beside": beside, "checksum": _hash([beside, digest(tensors)])}))


def _read(path: Path, key: Any) -> ImageFeatures | None:
    """What was written under ``key``, or None when there is nothing, or nothing to be trusted."""
    try:
        with safe_open(path, "pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        beside = json.loads(metadata["beside"])
        if beside["key"] != key or metadata["checksum"] != _hash([metadata["beside"], digest(tensors)]):
            return None
        skipped = tuple((name, reason) for name, reason in beside["skipped"])
        labels_N = tensors.pop("labels")
        return ImageFeatures(tensors, labels_N, tuple(beside["keys"]), skipped, cached=True)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
