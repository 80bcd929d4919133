"""Graphs for onnxruntime, made by torch's exporter.

Shapes: B images, M texts, L tokens, C classes, D feature width.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from steadyclip.core.errors import ModelError
from steadyclip.deploy.engine import TorchEngine
from steadyclip.objectives import Batch

if TYPE_CHECKING:
    from steadyclip.models import DualEncoder

_INLINE = 1_800_000_000
"""Bytes of weights up to which they are in the graph's own file, which may have 2 GB."""


class _Graph(nn.Module):
    """A model in ``dtype`` with inputs and outputs in float32."""

    def __init__(self, model: DualEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def image(self, pixel_values: Tensor) -> dict[str, Tensor]:
        return self.model("image", pixel_values.to(self.dtype))

    def text(self, input_ids: Tensor) -> Tensor:
        return self.model("text", {"input_ids": input_ids})["feature"]


class Vision(_Graph):
    """Pixels -> image features, not normalized."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.image(pixel_values)["feature"]


class Words(_Graph):
    """Tokens -> text features, not normalized."""

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.text(input_ids)


class Both(_Graph):
    """Tokens and pixels -> logits both ways and unit features, as transformers has them."""

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> tuple[Tensor, ...]:
        text_MD = normalize(self.text(input_ids), dim=-1)
        image_BD = normalize(self.image(pixel_values)["feature"], dim=-1)
        scale, bias = self.model.scale_and_bias()
        logits_BM = scale * image_BD @ text_MD.T + bias
        return logits_BM, logits_BM.T, text_MD, image_BD


class Classes(_Graph):
    """Pixels -> probabilities, logits and unit features, by the method's own head over fixed class names."""

    def __init__(self, engine: TorchEngine, temperature: float, dtype: torch.dtype) -> None:
        super().__init__(engine.model, dtype)
        self.scorer, self.temperature = engine.scorer, temperature
        # In the graph, not beside it: names and prompts are settled. A copy, since these are made without autograd.
        self.known = {read: rows.clone() for read, rows in engine.scorer.texts.items()}

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows, scorer = self.image(pixel_values), self.scorer
        known = {read: rows[read.what] for read in scorer.reads if read.tower == "image"}
        batch = Batch(torch.zeros(0, dtype=torch.long), known={**self.known, **known})
        f = scorer.planner.features(scorer.names, scorer.templates, batch, scoring=True)
        logits_BC = f.logits()
        return (logits_BC / self.temperature).softmax(dim=-1), logits_BC, normalize(rows["feature"], dim=-1)


def write_graph(
    graph: nn.Module, inputs: dict[str, Tensor], outputs: Sequence[str], dynamic: dict[str, dict[int, str]], path: Path
) -> None:
    """Write ``graph`` to ``path``. The first dimension of every input may be any number there.

    Raises:
        ModelError: torch cannot export it.
    """
    axes = {name: {axis: torch.export.Dim(word) for axis, word in of.items()} for name, of in dynamic.items()}
    external = sum(weight.nbytes for weight in graph.parameters()) > _INLINE
    try:
        with _silent(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph.eval(), tuple(inputs.values()), dynamo=True, input_names=list(inputs), output_names=list(outputs),
                dynamic_shapes=axes, external_data=external, verbose=False,
            )  # fmt: skip
            program.save(str(path), external_data=external)
    except Exception as error:
        first: BaseException = error
        while first.__cause__:
            first = first.__cause__
        reason = " ".join(str(first).split())[:300]
        raise ModelError(f"torch cannot write {path.name} as a graph: {type(first).__name__}: {reason}") from error
    finally:
        for module in graph.modules():
            for tower in (getattr(module, "image_tower", None), getattr(module, "text_tower", None)):
                if tower is not None:
                    tower.layouts = ()


def label_graph(path: Path, facts: dict[str, str]) -> None:
    """Add ``facts`` to the metadata of the graph in ``path``."""
    import onnx

    graph = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(graph, facts)
    onnx.save(graph, path)


def quantize(path: Path, out: Path) -> None:
    """The graph with int8 weights in its matrix products; convolutions stay, as onnxruntime lacks kernels for them."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _silent():
        quantize_dynamic(path, out, op_types_to_quantize=["MatMul", "Gemm"], weight_type=QuantType.QInt8)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No log lines, warnings and prints of the exporter; what is wrong is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
