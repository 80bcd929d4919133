"""Exports for transformers: a stock checkpoint, with the classifier in two files beside it.

Shapes: N images, C classes, D feature width.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadyclip.core.errors import ModelError
from steadyclip.deploy.checking import (
    EXACT,
    HALF,
    ExportFailed,
    Reference,
    by_parts,
    compare,
    need,
    need_texts,
    spelled,
)
from steadyclip.deploy.classifier import Classifier
from steadyclip.deploy.folding import fold, logits_of, refuse_unfoldable

if TYPE_CHECKING:
    from steadyclip.deploy.engine import TorchEngine
    from steadyclip.deploy.export import Job
    from steadyclip.models import Tokens

_PIPELINE_IMAGES = 4
"""Images that go through the stock pipeline, which computes all class texts anew for each of them."""


def check(engine: TorchEngine) -> None:
    """Raises ModelError where transformers has no class for the model."""
    refuse_unfoldable(engine, "hf")
    if engine.model.family == "open_clip":
        raise ModelError(
            f"{engine.model.name} is a model of open_clip, which transformers does not read: take --to open_clip or "
            "--to onnx."
        )


def write(job: Job) -> dict[str, Any]:
    """Write the checkpoint and the classifier, and read them back."""
    model, half = job.engine.model, job.dtype == "fp16"
    rows = fold(job.engine)
    rows.write(job.folder)
    about = job.write_classifier(rows.names)
    if half:
        model.network.half()
    model.save(job.folder)
    tokens = model.tokenize(job.reference.texts) if about.names == "any" else None
    checks = read_back(job.folder, job.reference, tokens, half)
    job.say(spelled("read back by transformers", checks["transformers"]))
    # For SigLIP the pipeline makes texts of 64 tokens, whatever the model has.
    fits = about.family == "clip" or model.text_tower.context == 64
    if about.names == "any" and len(about.templates) == 1 and fits:
        checks["pipeline"] = through_pipeline(job.folder, about, job.reference, half)
        found = checks["pipeline"]
        job.say(
            f"zero-shot pipeline of transformers: {found['equal_first_names']} of {found['images']} first names equal, "
            f"probabilities differ by at most {found['largest_probability_difference']:.1e}"
        )
    return checks


def read_back(folder: Path, reference: Reference, tokens: Tokens | None, half: bool) -> dict[str, Any]:
    """Read the folder by transformers alone, and compare. ``tokens`` are those of the reference's texts.

    Raises:
        ExportFailed: it says something else.
    """
    import torch

    from steadyclip.models.huggingface import import_transformers, quiet

    with quiet():
        transformers = import_transformers()
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder)

    def features(pixels_BCHW: np.ndarray) -> tuple[np.ndarray]:
        with torch.inference_mode():
            rows_BD = pooled(model.get_image_features(pixel_values=torch.from_numpy(pixels_BCHW)))
            return (torch.nn.functional.normalize(rows_BD, dim=-1).numpy(),)

    (unit_ND,) = by_parts(features, reference.pixels)
    tolerance, what = HALF if half else EXACT, "read back by transformers, the export differs"
    found = compare(reference, unit_ND, logits_of(folder, unit_ND))
    need(what, found, tolerance)
    checks = {"transformers": found}
    if tokens is not None:
        with torch.inference_mode():
            texts_MD = pooled(model.get_text_features(**tokens)).numpy()
        checks["transformers, texts"] = need_texts(what, reference, texts_MD, tolerance)
    with quiet():
        stock_NCHW = np.stack([np.asarray(processor(image)["pixel_values"][0]) for image in reference.pictures.images])
    (stock_ND,) = by_parts(features, stock_NCHW.astype(np.float32))
    found["stock_processor_smallest_cosine"] = float((unit_ND * stock_ND).sum(axis=1).min())
    return checks


def through_pipeline(folder: Path, about: Classifier, reference: Reference, half: bool) -> dict[str, Any]:
    """Ask the stock zero-shot pipeline the way the card says.

    Raises:
        ExportFailed: it names other classes.
    """
    from steadyclip.models.huggingface import import_transformers, quiet

    images = list(reference.pictures.images[:_PIPELINE_IMAGES])
    labels = pipeline_names(about)
    with quiet(), contextlib.redirect_stderr(None):
        pipeline = import_transformers().pipeline(
            "zero-shot-image-classification", model=str(folder), device="cpu", dtype="float32"
        )
        template = about.templates[0].lower() if about.family == "siglip2" else about.templates[0]
        answers = pipeline(images, candidate_labels=labels, hypothesis_template=template)
    scores_NC = np.array([[{a["label"]: a["score"] for a in answer}[label] for label in labels] for answer in answers])
    logits_NC = reference.logits[: len(images)].astype(np.float64)
    if about.family == "clip":
        shifted_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
        own_NC = shifted_NC / shifted_NC.sum(axis=1, keepdims=True)
    else:  # SigLIP's pipeline gives a sigmoid for each name
        own_NC = 1 / (1 + np.exp(-logits_NC))
    first_N, top_N = scores_NC.argmax(axis=1), logits_NC.max(axis=1)
    equal = int(
        (np.take_along_axis(logits_NC, first_N[:, None], axis=1)[:, 0] >= top_N - (0.05 if half else 1e-3)).sum()
    )
    found = {
        "images": len(images), "equal_first_names": equal,
        "largest_probability_difference": float(np.abs(scores_NC - own_NC).max()),
    }  # fmt: skip
    if equal < len(images):
        raise ExportFailed(
            f"the zero-shot pipeline of transformers gives {equal} of {len(images)} first names as the model does; a "
            "tokenizer or an image processor reads its files differently here (nothing was written)."
        )
    return found


def pipeline_names(about: Classifier) -> list[str]:
    """Class names as the stock pipeline must be given them: SigLIP 2 was trained on lower case, which its stock
    tokenizer does not make."""
    return [name.lower() for name in about.classes] if about.family == "siglip2" else list(about.classes)


def pooled(output: Any) -> Any:
    """The features in what ``get_image_features`` gives, which differs between versions of transformers."""
    return getattr(output, "pooler_output", output)
