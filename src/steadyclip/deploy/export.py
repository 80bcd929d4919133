"""``export``: a run as files that other libraries read, compared with the run before they are put in place."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec.structs import replace

from steadyclip.core.errors import UsageError
from steadyclip.core.files import building, sha256_of
from steadyclip.core.provenance import commit, now, versions
from steadyclip.data.pixels import Pixels
from steadyclip.deploy.checking import Reference, pictures_of
from steadyclip.deploy.classifier import CLASSIFIER, EXPORT, Classifier, ExportInfo
from steadyclip.deploy.engine import TorchEngine
from steadyclip.deploy.opening import Opened, open_source
from steadyclip.evaluation.records import MethodInfo, ModelInfo, Record

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.deploy.classifier import Names

Target = Literal["hf", "open_clip", "onnx", "web"]
Dtype = Literal["fp32", "fp16"]
_WRITERS = {"hf": "hf", "open_clip": "openclip", "onnx": "onnx", "web": "web"}  # modules, imported when asked for


@dataclass(frozen=True)
class Job:
    """One export in work: what writers of targets need.

    Attributes:
        folder: where files go.
        opened: the model, with the class names and prompts to export.
        engine: computes its answers, until a writer folds it.
        reference: its answers for the images to compare on.
        say: prints a line of progress.
    """

    folder: Path
    opened: Opened
    engine: TorchEngine
    reference: Reference
    dtype: Dtype
    int8: bool
    only: str | None
    runtime: Path | None
    before: bool
    say: Callable[[str], None]

    def write_classifier(self, names: Names) -> Classifier:
        """Write ``classifier.json``."""
        opened, calibration = self.opened, self.opened.calibration
        threshold = calibration.threshold.value if calibration and calibration.threshold else None
        plain = {field.name: getattr(opened.model.preprocess, field.name) for field in dataclasses.fields(Pixels)}
        about = Classifier(
            weights=hashlib.sha256(f"{opened.weights}/{self.dtype}".encode()).hexdigest()[:16],
            family=opened.model.family, dim=opened.model.embed_dim, context=opened.model.text_tower.context,
            pad=opened.model.pad, classes=opened.classes, templates=opened.templates,
            names=names, temperature=calibration.temperature if calibration else 1.0, threshold=threshold,
            pixels=Pixels(**plain), calibration=calibration,
        )  # fmt: skip
        about.write(self.folder / CLASSIFIER)
        return about


def export(
    source: str | Path | Opened,
    to: Target,
    out: str | Path,
    *,
    names: Sequence[str] = (),
    templates: Sequence[str] = (),
    data: ImageData | None = None,
    check: int = 64,
    dtype: Dtype = "fp32",
    int8: bool = False,
    only: str | None = None,
    runtime: Path | None = None,
    before: bool = False,
    force: bool = False,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> ExportInfo:
    """Write ``source`` for another library into the folder ``out``.

    The export is read back by the library it is for, and its answers are compared with those of ``source`` on the same
    images. Only then is the folder put in place; otherwise nothing is left of it.

    Args:
        source: a run folder, an export with weights, or a pretrained model with ``names``; or one of these as
            ``open_source`` gave it, which cannot be used afterwards.
        to: "hf" (transformers), "open_clip", "onnx" (onnxruntime) or "web" (a page that runs the model in a browser).
        names, templates: others than the source's own; a calibration does not carry over to these.
        data: images to compare on; made ones without it.
        check: how many of them.
        dtype: of the weights on disk.
        int8: also write ``onnx/classifier_int8.onnx`` (onnx).
        only: "classifier" leaves the towers and ``model.onnx`` out (onnx).
        runtime: folder of the npm package onnxruntime-web, whose files are copied (web).
        before: also write the pretrained model, so that the page shows both (web).
        force: replace an export that is there.
        say: takes lines of progress.

    Raises:
        ExportFailed: what was written does not say the same.
        ModelError: the target cannot hold this model; the message names the nearest one that can.
        SteadyClipError: ``out`` is there already, or cannot be written; a library is missing.
    """
    if to not in _WRITERS:
        raise UsageError(f"--to must be one of {', '.join(_WRITERS)}, not {to!r}.")
    if check < 1:
        raise UsageError(f"--check must be 1 or more, not {check}.")
    for flag, given, where in (
        ("int8", int8, "onnx"), ("only", only, "onnx"), ("runtime", runtime, "web"), ("before", before, "web"),
    ):  # fmt: skip
        if given and to != where:
            raise UsageError(f"--{flag} belongs to --to {where}, not to --to {to}.")
    if int8 and dtype == "fp16":
        raise UsageError("--int8 is made of the graph in fp32: leave --dtype fp16 out.")
    writer: Any = importlib.import_module(f"steadyclip.deploy.{_WRITERS[to]}_target")
    with building(Path(out), force=force, ours=EXPORT) as folder:
        opened = source
        if not isinstance(opened, Opened):
            opened = open_source(opened, names=names, templates=templates, device=device)
        if names or templates:
            own = opened
            opened = dataclasses.replace(
                own, classes=tuple(names) or own.classes, templates=tuple(templates) or own.templates
            )
            if (opened.classes, opened.templates) != (own.classes, own.templates) and own.calibration:
                opened = dataclasses.replace(opened, calibration=None)
                say("temperature and threshold were chosen for other class names or prompts, and are left out")
        engine = TorchEngine(opened.model, opened.method, opened.classes, opened.templates, opened.weights)
        writer.check(engine)
        reference = Reference.of(engine, pictures_of(data, check))
        job = Job(folder, opened, engine, reference, dtype, int8, only, runtime, before, say)
        base = base_of(opened)  # before the model is folded
        checks = writer.write(job)
        _finish(job, to, base, checks)
    return ExportInfo.read(Path(out) / EXPORT)


def base_of(opened: Opened) -> ModelInfo:
    """The pretrained model, by a name without folders of this machine."""
    if opened.run:
        known = opened.run.model
    else:
        known = ModelInfo(opened.model.name, opened.model.family, opened.model.weights_hash)
    return replace(known, name=public_name(known.name))


def public_name(name: str) -> str:
    """The name of a model as others may read it: a hub id or the name of an installed one; of a path its last part."""
    from steadyclip.core.extensions import MODELS, extensions

    hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name) and not Path(name).is_dir()
    return name if hub or name in extensions(MODELS) or name.startswith("open_clip:") else Path(name).name


def _finish(job: Job, to: str, base: ModelInfo, checks: dict[str, Any]) -> None:
    """Write the card, and what the export is."""
    from steadyclip.deploy.card import card_of

    opened, run = job.opened, job.opened.run
    method = run.method if run else MethodInfo.of(opened.method)
    of_files = {knob: Path(str(method.knobs[knob])).name for knob in method.files if knob in method.knobs}
    label = method.label
    for knob, name in of_files.items():
        label = label.replace(str(method.knobs[knob]), name)
    method = replace(method, knobs={**method.knobs, **of_files}, label=label)
    training = None
    if run and run.results:
        about = {
            key: getattr(run.task, key) for key in ("name", "subset", "shots", "content", "train_images", "val_images")
        }
        cost = {key: getattr(run.results, key) for key in ("steps", "seconds", "device", "processes")}
        training = {**about, "seed": run.seed, **cost}
    info = ExportInfo(
        created=now(), target=to, dtype=job.dtype, model=base, method=method, recipe=run.recipe if run else None,
        training=training, versions=versions(), commit=commit(), checks=checks, files={},
    )  # fmt: skip
    records = _records(Path(opened.source)) if run else []
    card = card_of(info, Classifier.read(job.folder / CLASSIFIER), records)
    (job.folder / "README.md").write_text(card, encoding="utf-8")
    replace(info, files=_digests(job.folder)).write(job.folder / EXPORT)


def _records(folder: Path) -> list[Record]:
    from steadyclip.evaluation.records import load_records

    return load_records(folder / "records") if any((folder / "records").glob("*.json")) else []


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        path.chmod(0o644)  # safetensors makes files that no other user may read, such as a web server
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
