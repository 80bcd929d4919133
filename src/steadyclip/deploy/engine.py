"""What computes answers: a model of torch with its head, or a graph in onnxruntime.

Shapes: B images in a batch, M texts, C classes, D feature width.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from steadyclip.core.errors import ModelError, UsageError
from steadyclip.data.pixels import Pixels

if TYPE_CHECKING:
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder


class Engine(Protocol):
    """Tells ``names`` apart. May be called from several threads at once.

    Attributes:
        weights: hash of the model with what was trained.
        names: the C classes.
        templates: prompts with ``{}`` for a name.
        pixels: the image transform.
        dim: D.
    """

    weights: str
    names: tuple[str, ...]
    templates: tuple[str, ...]
    pixels: Pixels
    dim: int

    def outputs(self, pixels_BCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image features of length 1 (B, D) and logits (B, C), float32."""
        ...

    def image(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        """Image features of length 1, (B, D)."""
        ...

    def text(self, texts: Sequence[str]) -> np.ndarray:
        """Features of whole texts, of length 1, (M, D). Raises UsageError where there is no text tower."""
        ...

    def renamed(self, names: Sequence[str], templates: Sequence[str]) -> Engine:
        """The same for other class names or prompts. Raises NoHead where it knows only its own."""
        ...


class TorchEngine(Engine):
    """A model with a method's pieces on it, as ``load_run`` gives it."""

    def __init__(
        self,
        model: DualEncoder,
        method: Method,
        names: Sequence[str],
        templates: Sequence[str],
        weights: str,
        lock: threading.Lock | None = None,
    ) -> None:
        """Computes the class texts. Raises as ``Scorer``."""
        from steadyclip.evaluation import Scorer

        self.model, self.method, self.weights, self.pixels = model, method, weights, model.preprocess
        self.dim = model.embed_dim
        self.lock = lock or threading.Lock()  # a pass sets adapters and modes of the whole model
        with self.lock:
            self.scorer = Scorer(model, method, names, templates, "fp32")  # as images are
        self.names, self.templates = self.scorer.names, self.scorer.templates

    def outputs(self, pixels_BCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch
        from torch.nn.functional import normalize

        from steadyclip.models.features import evaluating

        with self.lock, evaluating(self.model):
            rows = self.model.run("image", torch.from_numpy(pixels_BCHW))
            logits_BC = torch.cat(list(self.scorer.every(rows)))
            return normalize(rows["feature"], dim=-1).cpu().numpy(), logits_BC.cpu().numpy()

    def image(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        import torch

        from steadyclip.models.features import evaluating

        with self.lock, evaluating(self.model):
            return self.model.encode_image(torch.from_numpy(pixels_BCHW)).cpu().numpy()

    def text(self, texts: Sequence[str]) -> np.ndarray:
        from steadyclip.models.features import evaluating

        try:
            with self.lock, evaluating(self.model):
                return self.model.encode_text(list(texts)).cpu().numpy()
        except ModelError:
            if self.model.prompted is None:
                raise
            raise UsageError(
                f"{self.method.row} takes no texts of your own: its learned tokens are made for each class or image."
            ) from None

    def renamed(self, names: Sequence[str], templates: Sequence[str]) -> TorchEngine:
        return TorchEngine(self.model, self.method, names, templates, self.weights, self.lock)
