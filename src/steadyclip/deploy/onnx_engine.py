"""Answers by onnxruntime, from an export; without torch.

Shapes: B images, M texts, L tokens, C classes, D feature width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from steadyclip.core.errors import DataError, SteadyClipError, UsageError
from steadyclip.core.files import expanded
from steadyclip.data.prompts import as_trained, resolve_templates
from steadyclip.deploy.classifier import CLASSIFIER, WEIGHTS, Calibration, Classifier, ExportInfo
from steadyclip.deploy.engine import Engine

_AT_ONCE = 256


def import_onnxruntime() -> Any:
    """``onnxruntime``. Raises SteadyClipError where it is missing."""
    try:
        import onnxruntime
    except ImportError:
        raise SteadyClipError("onnxruntime is not installed: pip install 'steadyclip[onnx]'.") from None
    return onnxruntime


def session_of(path: Path) -> Any:
    """A session for the graph in ``path``, on the CPU. Raises DataError where it cannot be read."""
    runtime = import_onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of several kinds, all of onnxruntime
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} cannot be read by onnxruntime: {reason}") from None


def graph_facts(about: Classifier) -> dict[str, str]:
    """What a graph's metadata say, so that the file explains itself."""
    pixels = about.pixels
    return {
        "labels": json.dumps(about.classes, ensure_ascii=False), "templates": json.dumps(about.templates),
        "size": json.dumps(pixels.size), "mean": json.dumps(pixels.mean), "std": json.dumps(pixels.std),
        "temperature": repr(about.temperature), "threshold": json.dumps(about.threshold),
    }  # fmt: skip


def open_onnx(source: Path) -> tuple[OnnxEngine, Calibration | None]:
    """The export in the folder ``source``, or the one that the graph ``source`` is of, and its calibration.

    Raises:
        DataError: there is no such export, or it has no classifier graph.
    """
    source = expanded(source)
    above = [source] if source.is_dir() else [source.parent, source.parent.parent]
    folder = next(filter(Classifier.there, above), source)
    graphs = [source / "onnx" / "classifier.onnx", source / "classifier.onnx"] if source.is_dir() else [source]
    graph = next((path for path in graphs if path.is_file()), None)
    if graph is None or not Classifier.there(folder):
        missing = "classifier.onnx" if graph is None else CLASSIFIER
        raise DataError(
            f"{source} has no {missing}: name a folder that `steadyclip export RUN --to onnx --out FOLDER` wrote."
        )
    ExportInfo.see(folder)
    about = Classifier.read(folder / CLASSIFIER)
    return OnnxEngine(folder, graph, about), about.calibration


class OnnxEngine(Engine):
    """An exported classifier. For other names than its own it compares image features with those of the text graph."""

    def __init__(self, folder: Path, graph: Path, about: Classifier, session: Any = None) -> None:
        self.folder, self.graph, self.about = folder, graph, about
        self.weights, self.pixels = f"{about.weights}/{graph.stem}", about.pixels
        self.names, self.templates, self.dim = about.classes, about.templates, about.dim
        self.session = session or session_of(graph)
        self._rows: tuple[np.ndarray, np.ndarray] | None = None  # of other names: weight (C, D), bias (C,)
        self._words: Any = None

    def outputs(self, pixels_BCHW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits_BC, f_BD = self.session.run(["logits", "image_embeds"], {"pixel_values": pixels_BCHW})
        if self._rows is not None:
            weight_CD, bias_C = self._rows
            logits_BC = f_BD @ weight_CD.T + bias_C
        return f_BD, logits_BC

    def image(self, pixels_BCHW: np.ndarray) -> np.ndarray:
        return self.session.run(["image_embeds"], {"pixel_values": pixels_BCHW})[0]

    def text(self, texts: Sequence[str]) -> np.ndarray:
        if self._words is None:
            self._words = self._text_session(), self._tokenizer()
        session, tokenizer = self._words
        rows: list[np.ndarray] = []
        for start in range(0, len(texts), _AT_ONCE):
            part = [as_trained(text, self.about.family) for text in texts[start : start + _AT_ONCE]]
            ids_ML = np.array([encoded.ids for encoded in tokenizer.encode_batch(part)], np.int64)
            rows.append(session.run(None, {"input_ids": ids_ML})[0])
        rows_MD = np.concatenate(rows).astype(np.float32)
        return rows_MD / np.linalg.norm(rows_MD, axis=1, keepdims=True)

    def renamed(self, names: Sequence[str], templates: Sequence[str]) -> OnnxEngine:
        names, templates = tuple(names), resolve_templates(templates)
        if self.about.names == "fixed":
            raise UsageError(
                f"{self.folder} knows only its own {len(self.about.classes)} classes: its rows were learned."
            )
        prompts = [template.replace("{}", name) for name in names for template in templates]
        text_CTD = self.text(prompts).reshape(len(names), len(templates), -1)
        text_CD = text_CTD.mean(axis=1)
        text_CD /= np.linalg.norm(text_CD, axis=1, keepdims=True)
        head = load_file(self.folder / WEIGHTS)
        other = OnnxEngine(self.folder, self.graph, self.about, self.session)
        other.names, other.templates, other._words = names, templates, self._words
        other._rows = head["scale"] * text_CD, np.full(len(names), head["bias"][0])
        return other

    def _text_session(self) -> Any:
        path = self.graph.parent / "text_model.onnx"
        if not path.is_file():
            raise UsageError(f"{self.folder} has no text_model.onnx: export it again without --only.")
        return session_of(path)

    def _tokenizer(self) -> Any:
        from tokenizers import Tokenizer

        path = self.folder / "tokenizer.json"
        if not path.is_file() or self.about.pad is None:
            raise UsageError(f"{self.folder} has no tokenizer.json: texts need --backend torch here.")
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.enable_truncation(self.about.context)
        length = None if self.about.family == "clip" else self.about.context
        tokenizer.enable_padding(direction="right", pad_id=self.about.pad, length=length)
        return tokenizer
