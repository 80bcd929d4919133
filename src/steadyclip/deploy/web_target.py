"""Exports for the browser: a static folder that names images in the browser itself, by onnxruntime-web."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import structs
from PIL import Image

from steadyclip.core.errors import ModelError, UsageError
from steadyclip.deploy import onnx_target
from steadyclip.deploy.checking import Reference
from steadyclip.deploy.engine import TorchEngine
from steadyclip.deploy.opening import pretrained
from steadyclip.deploy.page import asset, page_of

if TYPE_CHECKING:
    from steadyclip.deploy.classifier import Classifier
    from steadyclip.deploy.export import Job

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_MOST = 1_800_000_000
"""Bytes of weights: a graph with more is in several files, which no browser would take anyway."""
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval'; "
    "img-src blob: data:; connect-src 'self'"
)


def check(engine: TorchEngine) -> None:
    """Raises ModelError where no graph can hold the model, or the page cannot resize as it does."""
    onnx_target.check(engine)
    if engine.pixels.interpolation == "nearest":
        raise ModelError("the page does not resize by the nearest pixel, as this model asks for: take --to onnx.")
    if sum(weight.nbytes for weight in engine.model.parameters()) > _MOST:
        raise ModelError(f"{engine.model.name} is too large for a browser: take --to onnx, and a service.")


def write(job: Job) -> dict[str, Any]:
    """Write page, graph and runtime, and run the graph."""
    version = _copy_runtime(job.runtime, job.folder)
    about = job.write_classifier(onnx_target.names_of(job.engine))
    checks = onnx_target.write_classifier_graph(job, about, job.folder / "classifier.onnx")
    if job.before:
        checks |= {f"before the training, {reader}": found for reader, found in _write_before(job, about).items()}
    head = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = page_of(head, '<script type="module" src="browser.js"></script>')
    (job.folder / "index.html").write_text(page, encoding="utf-8")
    for name, script in scripts().items():
        (job.folder / name).write_text(script, encoding="utf-8")
    checks["page"] = {"onnxruntime_web": version, "checked": False}
    job.say(f"the page runs it by onnxruntime-web {version}; no browser was started to compare that")
    return checks


def scripts() -> dict[str, str]:
    """The scripts of the page, by file."""
    order = f"const TALL_FIRST = {json.dumps(_tall_first())};"
    return {
        "browser.js": asset("browser.js"),
        "pixels.js": asset("pixels.js").replace("const TALL_FIRST = true;", order),
    }


def _tall_first() -> bool:
    """Whether Pillow resizes the height of a tall image before its width, which decides the last bit."""
    image = Image.frombytes("RGB", (8, 64), random.Random(0).randbytes(8 * 64 * 3))
    return image.resize((6, 8)).tobytes() == image.resize((8, 8)).resize((6, 8)).tobytes()


def _write_before(job: Job, about: Classifier) -> dict[str, Any]:
    """The pretrained model among the same names, and figures of what onnxruntime gives."""
    opened = pretrained(job.opened)
    if opened is None:
        raise UsageError(f"--before: the pretrained model of {job.opened.source} is not known, or not here.")
    engine = TorchEngine(opened.model, opened.method, opened.classes, opened.templates, opened.weights)
    reference = Reference.of(engine, job.reference.pictures)
    about = structs.replace(about, temperature=1.0, threshold=None, calibration=None)
    other = dataclasses.replace(job, opened=opened, engine=engine, reference=reference)
    return onnx_target.write_classifier_graph(other, about, job.folder / "before.onnx")


def _copy_runtime(given: Path | None, folder: Path) -> str:
    """Copy the files of onnxruntime-web, and give its version.

    Raises:
        UsageError: they are not there.
    """
    how = "npm install onnxruntime-web, then --runtime node_modules/onnxruntime-web"
    if given is None:
        raise UsageError(f"--to web needs the files of onnxruntime-web: {how}.")
    package = given.parent if given.name == "dist" else given
    for name in RUNTIME:
        if not (package / "dist" / name).is_file():
            raise UsageError(f"--runtime {given} has no dist/{name}: {how}.")
        shutil.copyfile(package / "dist" / name, folder / name)
    try:
        return str(json.loads((package / "package.json").read_bytes())["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(f"--runtime {given} is not the package onnxruntime-web: {how}.") from None
