"""``evaluate``: a model, a method and test images in; one record out.

Shapes: N images, C classes, D feature width.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace
from torch import Tensor

from steadyclip.core.precision import AskedPrecision, best_precision
from steadyclip.core.progress import progress_bar
from steadyclip.core.provenance import commit, now, numeric_flags, versions
from steadyclip.evaluation import metrics
from steadyclip.evaluation.answers import Answers
from steadyclip.evaluation.drift import measure
from steadyclip.evaluation.paired import packed
from steadyclip.evaluation.records import (
    ClassScore,
    Confusion,
    DataInfo,
    Example,
    MethodInfo,
    Metrics,
    ModelInfo,
    Record,
    Run,
)
from steadyclip.evaluation.scorer import Scorer
from steadyclip.heads import NoHead
from steadyclip.methods.base import Method
from steadyclip.models.features import ImageFeatures, cut_texts, image_features

if TYPE_CHECKING:
    from steadyclip.data import ImageSet
    from steadyclip.models import DualEncoder

# What a record keeps of the errors.
_PAIRS, _EXAMPLES, _THUMBNAIL = 12, 3, 64


def evaluate(
    model: DualEncoder,
    method: Method,
    image_set: ImageSet,
    *,
    subset: str = "all",
    templates: Sequence[str] | None = None,
    batch_size: int = 64,
    workers: int = 0,
    cache: str | Path | None = None,
    run: Run | None = None,
    note: str = "",
    progress: bool = False,
    drift: bool = False,
    precision: AskedPrecision = "auto",
    seen: int = 0,
    whole: str = "",
    keep: Callable[[Answers], object] | None = None,
) -> Record:
    """Score ``model`` on ``image_set`` with the head that ``method`` makes from the set's class names.

    Class features are computed once. The model's own preprocessing is used. Unreadable images are skipped and listed.

    Args:
        subset: which classes these are, for the record: "all", "base" or "new".
        templates: prompts with ``{}`` for the name; the set's own by default.
        cache: folder where image features of the frozen model are kept. Used for methods that train nothing below
            the image features, for weights that are the pretrained ones, and for ``drift``.
        run: the training run (``run.json``), None for a model that was not trained. Shots and seed of the record are
            its ``task.shots`` and ``seed``; a method that learns nothing has neither.
        note: anything a reader of the numbers must know, such as a class list of its own.
        progress: show a bar on a terminal, one plain line elsewhere.
        drift: also measure how far the features of images and prompts are from the frozen model's, at the cost of
            encoding the images once more where they are not in the cache.
        precision: arithmetic of the forward passes, "auto" as for ``TrainConfig``; the record keeps it.
        seen: test images that were left out of ``image_set`` since the run was trained or validated on them; the record
            keeps it.
        whole: hash of all test images of the data set (``ImageSet.content``), of which these may be a part; the record
            keeps it.

    Returns:
        The record; its ``metrics`` are None, with the ``reason``, when the method cannot classify among these names.

    Raises:
        DataError: too few images can be read, or a template has no ``{}``.
        UsageError: a precision that is not known.
    """
    templates = tuple(templates or image_set.templates)
    precision = best_precision(precision, model.device)
    run = run if method.learns else None
    domains = sorted({domain for domain in image_set.domains if domain is not None})
    blank = Record(
        created=now(),
        versions=versions(),
        commit=commit(),
        model=ModelInfo(model.name, model.family, model.weights_hash),
        method=run.method if run else MethodInfo.of(method),  # the files it names may be gone
        training=run,
        data=DataInfo(
            name=image_set.name,
            subset=subset,
            domain="+".join(domains) or None,
            classes=tuple(image_set.classes),
            templates=templates,
            images=len(image_set),
            hash=image_set.content,
            skipped=(),
            seen=seen,
            whole=whole,
        ),
        shots=run.task.shots if run else None,
        seed=run.seed if run else None,
        metrics=None,
        reason=None,
        per_class=(),
        confusions=(),
        seconds=0.0,
        images_per_second=None,
        note=note,
        precision=precision,
        device=model.device.type,
        threads=torch.get_num_threads(),
        flags=numeric_flags(model.device.type),
    )
    start = time.perf_counter()
    try:
        scorer = Scorer(model, method, image_set.classes, templates, precision)
    except NoHead as reason:
        return replace(blank, reason=str(reason))
    prompts = [template.replace("{}", name) for name in image_set.classes for template in templates]
    if cut := cut_texts(model, prompts):
        blank = replace(blank, note=" ".join(filter(None, [note, f"{cut}."])))
    encode = partial(image_features, model, image_set, batch_size=batch_size, workers=workers, precision=precision)
    frozen = "image" not in method.touched or _unchanged(model)
    with progress_bar(image_set.name) if progress else nullcontext() as advance:
        features = encode(cache=cache if frozen else None, frozen=frozen, progress=advance)
    predicted_N, confidence_N = scorer.predict(features.rows)
    seconds = time.perf_counter() - start
    moved = None
    if drift:
        before = features if frozen else encode(cache=cache, frozen=True)
        moved = measure(scorer, features.features_ND, before.features_ND)
    labels_N, classes = features.labels_N, len(image_set.classes)
    correct_N, groups = predicted_N == labels_N, image_set.group_numbers(features.keys)
    if keep:
        label, named = (tuple(image_set.classes[i] for i in each.tolist()) for each in (labels_N, predicted_N))
        keep(Answers(features.keys, label, named, tuple(confidence_N.tolist()), tuple(correct_N.tolist())))
    counts_CC = metrics.confusion_matrix(predicted_N, labels_N, classes)
    scores = zip(image_set.classes, counts_CC.sum(dim=1).tolist(), counts_CC.diagonal().tolist(), strict=True)
    return replace(
        blank,
        data=replace(blank.data, images=len(labels_N), skipped=features.skipped),
        metrics=Metrics(
            top1=metrics.top1(predicted_N, labels_N),
            mean_per_class=metrics.mean_per_class(predicted_N, labels_N, classes),
            ece=metrics.ece(confidence_N, correct_N),
            interval95=metrics.bootstrap_interval(correct_N, groups),
        ),
        per_class=tuple(ClassScore(*score) for score in scores),
        correct=packed(correct_N.numpy()),
        groups=" ".join(map(str, groups)),
        confusions=_confusions(image_set, features, predicted_N, confidence_N, counts_CC),
        seconds=seconds,
        images_per_second=None if features.cached else len(labels_N) / seconds,
        drift=moved,
    )


def _unchanged(model: DualEncoder) -> bool:
    """Only its own weights can be trained, and they are the pretrained ones: its features are the frozen model's."""
    if len(model.adapters) or not (weights := model.frozen_weights()):
        return False
    return all(torch.equal(model.get_parameter(name), value) for name, value in weights.items())


def _confusions(
    image_set: ImageSet, features: ImageFeatures, predicted_N: Tensor, confidence_N: Tensor, counts_CC: Tensor
) -> tuple[Confusion, ...]:
    """The most frequent wrong pairs, each with the images in which the model was most sure of its error."""
    wrong_CC = counts_CC.clone().fill_diagonal_(0)
    count_P, pair_P = wrong_CC.flatten().sort(descending=True, stable=True)
    position = {key: i for i, key in enumerate(image_set.keys)}
    confusions = []
    for count, pair in zip(count_P[:_PAIRS].tolist(), pair_P[:_PAIRS].tolist(), strict=True):
        if not count:
            break
        true, predicted = divmod(pair, len(image_set.classes))
        rows = ((features.labels_N == true) & (predicted_N == predicted)).nonzero().flatten()
        surest = rows[confidence_N[rows].argsort(descending=True, stable=True)][:_EXAMPLES].tolist()
        examples = tuple(_example(image_set, position[features.keys[row]]) for row in surest)
        confusions.append(Confusion(image_set.classes[true], image_set.classes[predicted], count, examples))
    return tuple(confusions)


def _example(image_set: ImageSet, index: int) -> Example:
    image = image_set.read(index)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    # A palette of 128 colors: a third of the bytes, and no visible difference at this size.
    image.quantize(128).save(buffer, "PNG", optimize=True)
    return Example(image_set.keys[index], base64.b64encode(buffer.getvalue()).decode())
