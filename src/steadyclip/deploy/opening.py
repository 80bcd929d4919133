"""From what a user names to a model with its class names: a run, an export, or a pretrained model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steadyclip.core.errors import DataError, SteadyClipError, UsageError
from steadyclip.core.files import expanded
from steadyclip.deploy.classifier import (
    CALIBRATION,
    CLASSIFIER,
    WEIGHTS,
    Calibration,
    Classifier,
    ExportInfo,
    identity_of,
)

if TYPE_CHECKING:
    from steadyclip.evaluation.records import Run
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder


@dataclass(frozen=True)
class Opened:
    """A model that can answer.

    Attributes:
        source: as the user named it.
        weights: hash of the model with what was trained.
        classes, templates: its own, which may be others than those asked for.
        calibration: of its own classes and templates.
        run: None where nothing is known of a training.
    """

    source: str
    model: DualEncoder
    method: Method
    weights: str
    classes: tuple[str, ...]
    templates: tuple[str, ...]
    calibration: Calibration | None = None
    run: Run | None = None


def open_source(
    source: str | Path, *, names: Sequence[str] = (), templates: Sequence[str] = (), device: str = "cpu"
) -> Opened:
    """The run, the export or the pretrained model ``source``.

    Args:
        names: class names for a pretrained model, which has none of its own.
        templates: prompts for these.

    Raises:
        UsageError: a pretrained model without class names.
        SteadyClipError: the source is not there or cannot be used.
    """
    folder = expanded(source)
    if (folder / "run.json").is_file():
        return _open_run(folder, device)
    if Classifier.there(folder):
        return _open_export(folder, device)
    return _open_model(str(source), names, templates, device)


def has_names(source: str | Path) -> bool:
    """Whether ``source`` is a run or an export, which have class names of their own."""
    path = expanded(source)
    return path.suffix == ".onnx" or (path / "run.json").is_file() or Classifier.there(path)


def run_weights(run: Run) -> str:
    """What stands for the weights of a run: the facts that decide them."""
    from steadyclip.training.run import digest

    return digest(run)


def _open_run(folder: Path, device: str) -> Opened:
    from steadyclip.training import load_run

    model, method, run = load_run(folder, device=device)
    weights, classes, templates = run_weights(run), run.task.classes, run.task.templates
    calibration = read_calibration(folder, identity_of(weights, classes, templates))
    return Opened(str(folder), model, method, weights, classes, templates, calibration, run)


def pretrained(opened: Opened) -> Opened | None:
    """The pretrained model that a run started from, among the same names; None where that is unknown or not there."""
    if opened.run is None:
        return None
    with contextlib.suppress(SteadyClipError):
        names, templates, device = opened.classes, opened.templates, str(opened.model.device)
        return open_source(opened.run.model.name, names=names, templates=templates, device=device)
    return None


def read_calibration(folder: Path, identity: str) -> Calibration | None:
    """The calibration in a run folder; None if there is none, or it is of an earlier run of that folder."""
    if not (folder / CALIBRATION).is_file():
        return None
    calibration = Calibration.read(folder / CALIBRATION)
    return calibration if calibration.of == identity else None


def _open_export(folder: Path, device: str) -> Opened:
    """An export is read as what it is a plain form of: class names, or rows of weights like a linear probe's."""
    from steadyclip.methods import get_method
    from steadyclip.models import load
    from steadyclip.training.checkpoint import read_tensors

    ExportInfo.see(folder)
    about = Classifier.read(folder / CLASSIFIER)
    if not any(folder.glob("*model.safetensors")):
        raise UsageError(
            f"{folder} holds graphs for onnxruntime and no weights: use it with --backend onnx "
            '(Predictor(..., backend="onnx")).'
        )
    model = load(folder, device=device)
    method = get_method("zero-shot" if about.names == "any" else "linear-probe")
    method.attach(model, about.classes)
    if about.names == "fixed":
        rows = read_tensors(folder / WEIGHTS)
        state = {"head.weight": rows["scale"] * rows["weight"], "head.bias": rows["bias"]}
        model.load_trained_state(state)
        model.eval()
    return Opened(str(folder), model, method, about.weights, about.classes, about.templates, about.calibration)


def _open_model(source: str, names: Sequence[str], templates: Sequence[str], device: str) -> Opened:
    from steadyclip.data.prompts import DEFAULT_TEMPLATE
    from steadyclip.methods import get_method
    from steadyclip.models import load

    folder = expanded(source)
    if folder.is_dir() and not (folder / "config.json").is_file():
        with contextlib.suppress(OSError):
            if not any(folder.glob("*.safetensors")):
                raise DataError(
                    f"{source} is neither a run (run.json), an export ({CLASSIFIER}) nor a model (config.json): name "
                    "the folder that `steadyclip train` or `steadyclip export` wrote."
                )
    model = load(source, device=device)
    if not names:
        raise UsageError(f"{source} is a pretrained model and has no class names: give them with --names.")
    method = get_method("zero-shot")
    method.attach(model, names)
    templates = tuple(templates) or (DEFAULT_TEMPLATE,)
    return Opened(source, model, method, model.weights_hash, tuple(names), templates)
