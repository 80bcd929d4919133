"""Exports for onnxruntime and transformers.js: graphs with the adapters and the head in them.

Shapes: N images, C classes, D feature width.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.deploy.checking import (
    EXACT,
    HALF,
    INT8,
    Tolerance,
    by_parts,
    compare,
    compare_features,
    need,
    need_features,
    need_texts,
    spelled,
)
from steadyclip.deploy.classifier import Classifier, Names
from steadyclip.deploy.folding import Rows
from steadyclip.deploy.onnx_engine import graph_facts, import_onnxruntime, session_of

if TYPE_CHECKING:
    from steadyclip.deploy.engine import TorchEngine
    from steadyclip.deploy.export import Job

GRAPHS = "onnx"
CLASSIFIER, INT8_CLASSIFIER = "classifier.onnx", "classifier_int8.onnx"
_OUTPUTS = ("probabilities", "logits", "image_embeds")
_BATCHES = (1, 3)
_KEPT = 16
"""Images in check.npz."""
_CHECK = '''\
"""Whether a runtime computes what was trained: compares its answers with those in check.npz."""
import numpy as np
import onnxruntime

known = np.load("check.npz")
session = onnxruntime.InferenceSession("onnx/classifier.onnx", providers=["CPUExecutionProvider"])
probabilities, logits, features = session.run(None, {"pixel_values": known["pixel_values"]})
cosine = (features * known["features"]).sum(1) / np.linalg.norm(features, axis=1)
print("smallest cosine of features:", cosine.min())
print("largest difference of logits:", np.abs(logits - known["logits"]).max())
print("equal first names:", (logits.argmax(1) == known["logits"].argmax(1)).sum(), "of", len(logits))
'''


def need_libraries() -> None:
    """Raises SteadyClipError where a library is missing."""
    import_onnxruntime()
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SteadyClipError(f"{error.name} is not installed: pip install 'steadyclip[onnx]'.") from None


def check(engine: TorchEngine) -> None:
    """Raises ModelError where no graph can hold the model, SteadyClipError where a library is missing."""
    need_libraries()
    if engine.scorer.planner.conditional:
        raise ModelError(
            f"--to onnx cannot hold {engine.method.row}: it makes other class texts for each image; name images by the "
            "run itself, with predict or serve."
        )


def write(job: Job) -> dict[str, Any]:
    """Write the graphs, and run them."""
    (job.folder / GRAPHS).mkdir()
    job.engine.model.save_settings(job.folder)
    names = names_of(job.engine)
    about = job.write_classifier(names)
    if rows := Rows.of(job.engine, names):
        rows.write(job.folder)
    checks = write_classifier_graph(job, about, job.folder / GRAPHS / CLASSIFIER)
    if job.int8:
        checks |= write_int8(job, job.folder / GRAPHS / CLASSIFIER, job.folder / GRAPHS / INT8_CLASSIFIER)
    if job.only is None:
        checks |= _write_towers(job, names)
    reference = job.reference
    np.savez_compressed(
        job.folder / "check.npz", pixel_values=reference.pixels[:_KEPT], features=reference.features[:_KEPT],
        logits=reference.logits[:_KEPT],
    )  # fmt: skip
    (job.folder / "check.py").write_text(_CHECK, encoding="utf-8")
    return checks


def names_of(engine: TorchEngine) -> Names:
    """ "any" where class names are plain texts to the text tower, and all that the head reads."""
    plain = engine.model.prompted is None and engine.method.head.mergeable
    return "any" if plain and not engine.scorer.planner.head.spec.own_classes else "fixed"


def write_classifier_graph(job: Job, about: Classifier, path: Path) -> dict[str, Any]:
    """Pixels -> probabilities, logits and features, in ``job.dtype``; figures of what onnxruntime gives."""
    import torch

    from steadyclip.deploy.onnx_graphs import Classes, label_graph, write_graph

    half = job.dtype == "fp16"
    if all(adapter.mergeable for adapter in job.engine.method.adapters):
        job.engine.model.merge_adapters()  # a smaller graph; and some choose their arithmetic by the size of the batch
    if half:
        job.engine.model.network.half()
        job.engine.model.adapters.half()
    job.say(f"writing {path.name} ...")
    graph = Classes(job.engine, about.temperature, torch.float16 if half else torch.float32)
    # Two images: an example of one would be frozen in.
    pixels = torch.zeros(2, *job.reference.pixels.shape[1:])
    write_graph(graph, {"pixel_values": pixels}, _OUTPUTS, {"pixel_values": {0: "batch"}}, path)
    label_graph(path, graph_facts(about))
    what = f"onnxruntime{', fp16' if half else ''}"
    return _compared(job, path, what, HALF if half else EXACT)


def write_int8(job: Job, path: Path, out: Path) -> dict[str, Any]:
    """The classifier with int8 weights."""
    from steadyclip.deploy.onnx_graphs import quantize

    job.say(f"writing {out.name} ...")
    quantize(path, out)
    return _compared(job, out, "onnxruntime, int8", INT8)


def _compared(job: Job, path: Path, what: str, tolerance: Tolerance) -> dict[str, Any]:
    """Figures of the classifier in ``path``, for all images at once and in batches of 1 and 3."""
    session, pixels = session_of(path), job.reference.pixels

    figures: dict[str, Any] = {}
    for size in (*_BATCHES, len(pixels)):
        logits, features = by_parts(lambda part: session.run(_OUTPUTS[1:], {"pixel_values": part}), pixels, size)
        figures = compare(job.reference, features, logits)
        need(f"{path.name} in {what}, batches of {size}", figures, tolerance)
    job.say(spelled(what, figures))
    return {what: figures}


def _write_towers(job: Job, names: Names) -> dict[str, Any]:
    """The towers apart and together, as transformers.js reads them."""
    import torch

    from steadyclip.deploy.onnx_graphs import Both, Vision, Words, write_graph

    half = job.dtype == "fp16"
    dtype, tolerance = (torch.float16, HALF) if half else (torch.float32, EXACT)
    folder, model, reference = job.folder / GRAPHS, job.engine.model, job.reference
    pixels, batch = torch.zeros(2, *reference.pixels.shape[1:]), {"pixel_values": {0: "batch"}}
    job.say("writing vision_model.onnx ...")
    write_graph(Vision(model, dtype), {"pixel_values": pixels}, ["image_embeds"], batch, folder / "vision_model.onnx")
    session = session_of(folder / "vision_model.onnx")
    (found,) = by_parts(lambda part: session.run(None, {"pixel_values": part}), reference.pixels)
    checks = {"onnxruntime, vision_model": compare(reference, found, reference.logits)}
    need("vision_model.onnx in onnxruntime", checks["onnxruntime, vision_model"], tolerance)
    if not reference.texts or model.prompted is not None:
        job.say("no text_model.onnx: learned tokens precede the words, which no plain graph of texts has")
        return checks
    tokens = model.tokenize(reference.texts)["input_ids"]
    free = model.family == "clip"  # SigLIP and open_clip read texts of one length
    axes = {"input_ids": {0: "texts", 1: "tokens"} if free else {0: "texts"}}
    example = model.tokenize(["a b", "a b c d e"])["input_ids"]
    job.say("writing text_model.onnx ...")
    write_graph(Words(model, dtype), {"input_ids": example}, ["text_embeds"], axes, folder / "text_model.onnx")
    text_MD = session_of(folder / "text_model.onnx").run(None, {"input_ids": tokens.numpy()})[0]
    what = "text_model.onnx in onnxruntime"
    checks["onnxruntime, text_model"] = need_texts(what, reference, np.asarray(text_MD), tolerance)
    job.say("writing model.onnx ...")
    outputs = ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    inputs = {"input_ids": example, "pixel_values": torch.zeros(3, *pixels.shape[1:])}
    write_graph(Both(model, dtype), inputs, outputs, axes | batch, folder / "model.onnx")
    given = {"input_ids": tokens[:5].numpy(), "pixel_values": reference.pixels[:7]}
    image_BD, text_MD = session_of(folder / "model.onnx").run(["image_embeds", "text_embeds"], given)
    for own, rows in ((reference.features[:7], image_BD), (reference.text_features[:5], text_MD)):
        need_features("model.onnx in onnxruntime", compare_features(own, np.asarray(rows)), tolerance)
    return checks
