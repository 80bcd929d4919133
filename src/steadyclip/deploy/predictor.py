"""``Predictor``: load once, then name images, from any number of threads.

Shapes: B images in a batch, C classes, D feature width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from steadyclip.core.errors import UsageError
from steadyclip.core.progress import warn
from steadyclip.data.decode import UnreadableImage
from steadyclip.deploy.decoding import Decoder, Picture, batched
from steadyclip.deploy.engine import Engine, TorchEngine

if TYPE_CHECKING:
    from steadyclip.deploy.classifier import Calibration
    from steadyclip.deploy.opening import Opened

Cut = float | Literal["off"] | None
"""A threshold: a number, "off", or None for the one that was calibrated, if there is one."""
_SINGLE = (str, Path, bytes, bytearray, memoryview, np.ndarray)


@dataclass(frozen=True)
class Prediction:
    """What one image shows.

    Attributes:
        path: of the image as it was given, or "image 1" where it has none.
        label: the first name; "" where its probability is below the threshold, and where the image cannot be read.
        score: probability of the first name, after calibration.
        names: the best names, best first.
        probabilities: theirs, over all class names.
        error: why the image cannot be read; "" if it can.
    """

    path: str
    label: str
    score: float
    names: tuple[str, ...]
    probabilities: tuple[float, ...]
    error: str = ""

    @property
    def sure(self) -> bool:
        """The image could be read, and the score is not below the threshold."""
        return bool(self.label)


class Predictor:
    """Names images by a run, an export, or a pretrained model with class names.

    The first name is that of ``evaluate`` on the same image. Probabilities are ``softmax(logits / temperature)``, with
    a temperature of 1 where nothing was calibrated. It is safe to share among threads.

    Attributes:
        names: class names.
        templates: prompts.
        temperature: see above.
        threshold: below it the answer is "unsure"; None where there is none.
        calibration: where these two come from.
        engine: what computes the answers.
        opened: the model with its method, as it was opened; None with onnxruntime.
    """

    def __init__(
        self,
        source: str | Path | Opened,
        *,
        names: Sequence[str] = (),
        templates: Sequence[str] = (),
        backend: Literal["torch", "onnx"] = "torch",
        device: str = "cpu",
    ) -> None:
        """Load ``source``.

        Args:
            source: folder that `steadyclip train` or `steadyclip export` wrote; a .onnx file of such a folder; or a
                pretrained model as ``load`` takes it, with ``names``; or what ``open_source`` gave.
            names: class names to choose among, by default its own. Temperature and threshold hold for its own only.
            templates: prompts with ``{}``, by default its own.
            backend: "onnx" reads an export for onnxruntime and imports no torch (extra ``onnx``).
            device: `cpu`, `cuda`, `cuda:N`, `mps`, or `auto`; of torch.

        Raises:
            NoHead: it knows only its own classes, and others are asked for.
            SteadyClipError: the source is not there or cannot be used.
        """
        self.opened: Opened | None = None
        if isinstance(source, str | Path) and (backend == "onnx" or Path(source).suffix == ".onnx"):
            from steadyclip.deploy.onnx_engine import open_onnx

            engine, calibration = open_onnx(Path(source))
        else:
            from steadyclip.core.precision import best_device
            from steadyclip.deploy.opening import open_source

            opened = source
            if isinstance(opened, str | Path):
                opened = open_source(opened, names=names, templates=templates, device=best_device(device))
            engine = TorchEngine(opened.model, opened.method, opened.classes, opened.templates, opened.weights)
            calibration, self.opened = opened.calibration, opened
        self._set(engine, calibration)
        if names or templates:
            chosen = self.with_names(names or engine.names, templates)
            self._set(chosen.engine, chosen.calibration)

    def _set(self, engine: Engine, calibration: Calibration | None) -> None:
        self.engine, self.calibration = engine, calibration
        self.names, self.templates = engine.names, engine.templates
        self.temperature = calibration.temperature if calibration else 1.0
        self.threshold = calibration.threshold.value if calibration and calibration.threshold else None

    @property
    def dim(self) -> int:
        """D, the width of the features."""
        return self.engine.dim

    @property
    def hash(self) -> str:
        """16 hex digits over all that decides the answers, but the threshold."""
        from steadyclip.deploy.classifier import identity_of

        return identity_of(f"{self.engine.weights}/{self.temperature!r}", self.names, self.templates)

    def with_names(self, names: Sequence[str], templates: Sequence[str] = ()) -> Predictor:
        """The same model for other class names or prompts; the weights are shared.

        Temperature and threshold were chosen for the own names, and are dropped with them.

        Raises:
            NoHead: it knows only its own classes.
            UsageError: no name, a name twice, or a template without ``{}``.
        """
        names, templates = tuple(names), tuple(templates) or self.templates
        if repeated := next((name for i, name in enumerate(names) if name in names[:i]), None):
            raise UsageError(f"the class name {repeated!r} is given twice, leave one out.")
        other = object.__new__(Predictor)
        other.opened = self.opened
        if (names, templates) == (self.names, self.templates):
            other._set(self.engine, self.calibration)
            return other
        if self.calibration:
            warn("temperature and threshold were chosen for other class names or prompts, and are not used")
        other._set(self.engine.renamed(names, templates), None)
        return other

    @overload
    def __call__(
        self, pictures: str | Path | bytes | np.ndarray, *, top: int = 5, threshold: Cut = None,
        errors: Literal["raise", "return"] = "raise", batch_size: int = 64, workers: int = 0,
    ) -> Prediction: ...  # fmt: skip

    @overload
    def __call__(
        self, pictures: Any, *, top: int = 5, threshold: Cut = None, errors: Literal["raise", "return"] = "raise",
        batch_size: int = 64, workers: int = 0,
    ) -> Any: ...  # fmt: skip

    def __call__(
        self,
        pictures: Any,
        *,
        top: int = 5,
        threshold: Cut = None,
        errors: Literal["raise", "return"] = "raise",
        batch_size: int = 64,
        workers: int = 0,
    ) -> Any:
        """One ``Prediction`` for one picture, a list of them for several.

        Args:
            pictures: a path, encoded bytes, a PIL image, an array (H, W, 3) of uint8, or a list of these.
            top: how many names to give, at most all of them.
            threshold: by default the calibrated one; "off" for none.
            errors: raise where a picture cannot be read, or return a ``Prediction`` with its ``error``.
            batch_size: images in a forward pass.
            workers: processes that decode; 0 decodes on threads.

        Raises:
            UnreadableImage: a picture cannot be read, unless ``errors`` is "return".
        """
        from PIL import Image

        single = isinstance(pictures, (*_SINGLE, Image.Image))
        keyed = keys_of([pictures] if single else pictures)
        found = self.stream(keyed, top=top, threshold=threshold, batch_size=batch_size, workers=workers)
        results = []
        for prediction in found:
            if prediction.error and errors == "raise":
                raise UnreadableImage(prediction.path, prediction.error)
            results.append(prediction)
        return results[0] if single else results

    def stream(
        self,
        pictures: Iterable[tuple[str, Picture]],
        *,
        top: int = 5,
        threshold: Cut = None,
        batch_size: int = 64,
        workers: int = 0,
    ) -> Iterator[Prediction]:
        """A ``Prediction`` for each (key, picture), in order, as soon as its batch is done. A picture that cannot be
        read gives one with an ``error``.

        Raises:
            UsageError: a threshold or a number that makes no sense.
        """
        if top < 1 or batch_size < 1 or workers < 0:
            raise UsageError("top and batch_size must be 1 or more, workers 0 or more.")
        cut = self._cut(threshold)
        for batch in self._decoded(pictures, batch_size, workers):
            good = [levels for _, levels in batch if not isinstance(levels, str)]
            answers = iter(self.probabilities(np.stack(good)) if good else ())
            for key, levels in batch:
                if isinstance(levels, str):
                    yield Prediction(key, "", 0.0, (), (), levels)
                else:
                    yield self.prediction(key, next(answers), top, cut)

    def probabilities(self, levels_BHWC: np.ndarray) -> np.ndarray:
        """Calibrated probabilities (B, C) of decoded images, see ``Pixels.levels``."""
        _, logits_BC = self.engine.outputs(self.engine.pixels.normalized(levels_BHWC))
        return softmax(logits_BC / np.float32(self.temperature))

    def prediction(self, key: str, probabilities_C: np.ndarray, top: int, cut: float | None) -> Prediction:
        """The ``top`` names of one row of ``probabilities``."""
        order = np.argsort(-probabilities_C, kind="stable")[:top].tolist()
        names = tuple(self.names[i] for i in order)
        values = tuple(float(probabilities_C[i]) for i in order)
        label = names[0] if cut is None or values[0] >= cut else ""
        return Prediction(key, label, values[0], names, values)

    def _cut(self, threshold: Cut) -> float | None:
        if threshold == "off":
            return None
        if threshold is None:
            return self.threshold
        if not 0 <= threshold <= 1:
            raise UsageError(f"threshold={threshold:g} must be from 0 to 1, or off.")
        return float(threshold)

    def embed(self, pictures: Any, *, batch_size: int = 64, workers: int = 0) -> np.ndarray:
        """Image features of length 1, (D,) of one picture, (N, D) of a list of them.

        Raises:
            UnreadableImage: a picture cannot be read.
        """
        from PIL import Image

        single = isinstance(pictures, (*_SINGLE, Image.Image))
        rows = []
        for key, row in self.stream_features(keys_of([pictures] if single else pictures), batch_size, workers):
            if isinstance(row, str):
                raise UnreadableImage(key, row)
            rows.append(row)
        return rows[0] if single else np.stack(rows)

    def stream_features(
        self, pictures: Iterable[tuple[str, Picture]], batch_size: int = 64, workers: int = 0
    ) -> Iterator[tuple[str, np.ndarray | str]]:
        """Key and features of length 1 (D,) of each picture in order, or the reason why it cannot be read."""
        for batch in self._decoded(pictures, batch_size, workers):
            good = [levels for _, levels in batch if not isinstance(levels, str)]
            rows = iter(self.engine.image(self.engine.pixels.normalized(np.stack(good))) if good else ())
            for key, levels in batch:
                yield key, levels if isinstance(levels, str) else next(rows)

    def embed_text(self, texts: str | Sequence[str]) -> np.ndarray:
        """Features of length 1 of whole texts (no template is applied): (D,) of one text, (M, D) of a list."""
        rows = self.engine.text([texts] if isinstance(texts, str) else texts)
        return rows[0] if isinstance(texts, str) else rows

    def _decoded(
        self, pictures: Iterable[tuple[str, Picture]], batch_size: int, workers: int
    ) -> Iterator[list[tuple[str, np.ndarray | str]]]:
        with (
            Decoder(self.engine.pixels, workers) as decoder,
            contextlib.closing(decoder.ordered(pictures, ahead=2 * batch_size)) as found,
        ):
            yield from batched(found, batch_size)


def keys_of(pictures: Iterable[Picture]) -> Iterator[tuple[str, Picture]]:
    """Each picture with what errors call it: its path, or its place."""
    for place, picture in enumerate(pictures, start=1):
        yield str(picture) if isinstance(picture, str | Path) else f"image {place}", picture


def softmax(logits_BC: np.ndarray) -> np.ndarray:
    """Probabilities (B, C), float32."""
    shifted_BC = np.exp(logits_BC - logits_BC.max(axis=1, keepdims=True))
    return shifted_BC / shifted_BC.sum(axis=1, keepdims=True)
