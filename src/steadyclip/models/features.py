"""Image features of a whole set, computed once, and kept on disk where the frozen model is asked for.

Shapes: N images, B images in a batch, D feature width.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
from steadyclip.core.precision import AskedPrecision, arithmetic, best_precision, enough_memory, tf32
from steadyclip.core.progress import Progress
from steadyclip.data.batches import loader_of
from steadyclip.models.encoder import DualEncoder
from steadyclip.models.switches import turned_off
from steadyclip.models.towers import digest

if TYPE_CHECKING:
    from steadyclip.data import ImageSet


_TEXTS = 4096
"""Texts that are tokenized at once to see which are cut."""
_SHARD = 8192
"""Images after which features are written to the disk, where they are kept there at all."""
_ROOM = 2**29
"""Bytes of decoded test images that stay in memory; a single set may take a quarter of them."""

Rows = dict[str, Tensor]
"""(N, ...) raw outputs of the image tower by name."""
Skipped = tuple[tuple[str, str], ...]
"""(key, reason) of images that cannot be read."""
_kept: OrderedDict[str, tuple[list[tuple[Tensor, Tensor]], list[tuple[str, str]]]] = OrderedDict()


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
    precision: AskedPrecision = "auto",
    progress: Progress | None = None,
) -> ImageFeatures:
    """Features of all readable images of ``image_set`` under the model's evaluation preprocessing.

    Args:
        cache: folder for the features of the frozen model; only with ``frozen``. A cached file is used if the weights,
            the precision, the preprocessing, and the names and content of the images are the same. A large set is
            written in shards while it is computed; a call that was killed goes on behind the last of them.
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
    precision = best_precision(precision, model.device)
    path, found = None, None
    if cache is not None:  # named after everything the features depend on
        key = [model.weights_hash, precision, repr(model.preprocess), image_set.hash, image_set.content]
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        path = Path(cache) / f"features-{name}.safetensors"
        found = _read(path)
    if cached := found is not None:
        rows, skipped = found
    else:
        state = (model.frozen(), tf32(model.device)) if frozen else ()
        tried, advice = f"{batch_size} images at once do not fit on {model.device}", "Lower batch_size (--batch-size)."
        with evaluating(model), enough_memory(tried, advice), ExitStack() as stack:
            for each in (arithmetic(model.device, precision), *state):
                stack.enter_context(each)
            rows, skipped = _encoded(model, image_set, batch_size, workers, path, progress)
    unreadable = dict(skipped)
    there = [i for i, key in enumerate(image_set.keys) if key not in unreadable]
    labels_N = torch.tensor([image_set.labels[i] for i in there])
    return ImageFeatures(rows, labels_N, tuple(image_set.keys[i] for i in there), skipped, cached)


def _encoded(
    model: DualEncoder, image_set: ImageSet, batch_size: int, workers: int, path: Path | None, progress: Progress | None
) -> tuple[Rows, Skipped]:
    """What ``image_features`` computes, shard by shard. With ``path`` it is written there, and each shard of several
    is on disk as soon as it is done, so that a call that was killed goes on behind it."""
    size, total = max(1, _SHARD // batch_size) * batch_size, len(image_set)
    shards: list[tuple[Rows, Skipped]] = []
    files: list[Path] = []
    skipped: Skipped = ()
    for start in range(0, total, size):
        places = range(start, min(start + size, total))
        file = path.with_name(f"{path.stem}-{start}.part") if path and total > size else None
        found = _read(file) if file else None
        if found is None or len(next(iter(found[0].values()), ())) + len(found[1]) != len(places):  # other batches
            outputs, broken = [], []
            for images_BCHW, index_B in _prepared(model, image_set, places, batch_size, workers, broken):
                pixels_BCHW = model.preprocess.normalize(
                    images_BCHW.to(model.device, non_blocking=model.device.type == "cuda")
                )
                # Stays on the device until the end of the shard: one wait instead of one for each batch.
                outputs.append(model.run("image", pixels_BCHW))
                if progress:
                    progress(int(index_B[-1]) + 1, total)
            found = _joined(outputs), tuple(broken)
            if file:
                _write(file, *found)
        shards.append(found)
        files += [file] if file else []
        skipped = tuple(each for _, skipped in shards for each in skipped)
        image_set.accept(skipped, every_class=len(shards) * size >= total)  # before more time is spent on it
    rows = _joined([rows for rows, _ in shards if rows])
    if path is not None:
        _write(path, rows, skipped)
    for file in files:
        file.unlink(missing_ok=True)
    return rows, skipped


def _prepared(
    model: DualEncoder,
    image_set: ImageSet,
    places: range,
    batch_size: int,
    workers: int,
    skipped: list[tuple[str, str]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the readable images at ``places``, uint8, and where they stand in the set; the others go to
    ``skipped``.

    Those of a small set stay in the memory of this process: a table scores many trainings, and each time the trained
    and the frozen model, on the same images. They are known by their content.
    """
    name, found = "", None
    size = 3 * math.prod(model.preprocess.size) * len(image_set)
    # what is not a file would have to be read again for its content
    if len(places) == len(image_set) and size <= _ROOM // 4 and hasattr(image_set.store, "file"):
        name = repr((model.preprocess, image_set.hash, image_set.content, batch_size))
        found = _kept.pop(name, None)
    batches, broken = found or ([], [])
    if found:
        yield from batches
    else:
        cut = [places[at : at + batch_size] for at in range(0, len(places), batch_size)]
        decoded = loader_of(
            image_set, model.preprocess.pixels, [[(i, None) for i in part] for part in cut], workers=workers
        )
        for images_BCHW, _, index_B in decoded:
            if name:
                batches.append((images_BCHW, index_B))
            yield images_BCHW, index_B
        broken = decoded.skipped
    skipped += broken
    if name:
        _kept[name] = batches, broken  # at the end, as the last that was used
        while sum(images.nbytes for kept, _ in _kept.values() for images, _ in kept) > _ROOM:
            _kept.popitem(last=False)


def _joined(parts: Sequence[Rows]) -> Rows:
    return {what: torch.cat([rows[what] for rows in parts]).cpu() for what in parts[0]} if parts else {}


def _write(path: Path, rows: Rows, skipped: Skipped) -> None:
    write_atomic(path, save(rows, {"skipped": json.dumps(skipped), "checksum": digest(rows)}))


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


def _read(path: Path) -> tuple[Rows, Skipped] | None:
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
