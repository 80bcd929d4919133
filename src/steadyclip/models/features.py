"""Image features of a whole set, computed once, and kept on disk where the frozen model is asked for.

Shapes: N images, B images in a batch, D feature width.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
from steadyclip.models.towers import digest

if TYPE_CHECKING:
    from steadyclip.data import ImageSet


_TEXTS = 4096
"""Texts that are tokenized at once to see which are cut."""


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
        cache: folder for the features of the frozen model; only with ``frozen``. A cached file is used if the weights,
            the precision, the preprocessing, and the names and content of the images are the same.
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
    path, found = None, None
    if cache is not None:  # named after everything the features depend on
        key = [model.weights_hash, precision, repr(model.preprocess), image_set.hash, image_set.content]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = Path(cache) / f"features-{name}.safetensors"
        found = _read(path)
    if cached := found is not None:
        rows, skipped = found
    else:
        batches = loader(image_set, model.preprocess.pixels, batch_size=batch_size, workers=workers)
        outputs, done = [], 0
        with evaluating(model), arithmetic(model.device, precision), model.frozen() if frozen else nullcontext():
            for images_BCHW, _, index_B in batches:
                # Stays on the device until the end: one wait instead of one per batch.
                pixels_BCHW = model.preprocess.normalize(images_BCHW.to(model.device, non_blocking=True))
                outputs.append(model.run("image", pixels_BCHW))
                done += len(index_B)
                if progress:
                    progress(done, len(image_set))
        skipped = tuple((key, reason) for key, reason in batches.skipped)
        image_set.accept(skipped)
        rows = {what: torch.cat([output[what] for output in outputs]).cpu() for what in outputs[0]}
        if path is not None:
            write_atomic(path, save(rows, {"skipped": json.dumps(skipped), "checksum": digest(rows)}))
    unreadable = dict(skipped)
    there = [i for i, key in enumerate(image_set.keys) if key not in unreadable]
    labels_N = torch.tensor([image_set.labels[i] for i in there])
    return ImageFeatures(rows, labels_N, tuple(image_set.keys[i] for i in there), skipped, cached)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout) and no autograd; every module gets its own mode back."""
    with turned_off(model.modules(), "training"), torch.inference_mode():
        yield


def cut_texts(model: DualEncoder, texts: Sequence[str]) -> str:
    """Whether the model does not read the end of some texts, as a line for people with their number; "" if it reads
    all. (A text that fills the model's context exactly counts as well.)"""
    texts, cut, length = list(dict.fromkeys(texts)), [], 0
    # no token is shorter than a byte
    long = [text for text in texts if len(text.encode()) > model.text_tower.context - 4]
    for first in range(0, len(long), _TEXTS):
        part = long[first : first + _TEXTS]
        short_ML, long_ML = (model.tokenize([text + more for text in part])["input_ids"] for more in ("", " a a"))
        if short_ML.shape == long_ML.shape:  # else padded to the longest, which still had room
            length = short_ML.shape[1]
            same_M = (short_ML == long_ML).all(dim=1).tolist()
            cut += [text for text, same in zip(part, same_M, strict=True) if same]
    if not cut:
        return ""
    return f"{len(cut)} of {len(texts)} texts are cut at the {length} tokens that the model reads, such as {cut[0]!r}"


def _read(path: Path) -> tuple[dict[str, Tensor], tuple[tuple[str, str], ...]] | None:
    """The rows and the skipped images in a file of the cache; None if there is none, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata, rows = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata["checksum"] != digest(rows):
            return None
        skipped = json.loads(metadata["skipped"])
        return rows, tuple((key, reason) for key, reason in skipped)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return None
