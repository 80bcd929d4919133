"""What every method must keep, as one call: ``check_method(MyMethod())``. Registering a method puts it under test.

Each check runs on a tiny randomly initialized model of every family, and raises ``AssertionError`` with the method, the
family and the broken promise.
"""

from __future__ import annotations

import copy
import dataclasses
import gc
import io
import itertools
import random
import tempfile
import weakref
from collections.abc import Callable, Iterable, Sequence

import safetensors.torch
import torch
from PIL import Image as PILImage
from torch import Tensor

from steadyclip.core.precision import arithmetic
from steadyclip.data import ImageSet, ImageTask
from steadyclip.evaluation import Scorer
from steadyclip.heads import NoHead
from steadyclip.methods import Method, get_method
from steadyclip.methods.registry import make_method
from steadyclip.models import DualEncoder, load
from steadyclip.models.testing import installed_families, tiny
from steadyclip.objectives import Batch, Features, Image, Text
from steadyclip.training.cache import fill_head
from steadyclip.training.config import TrainConfig
from steadyclip.training.step import RunningAverage, Step

NAMES = ("cat", "dog", "sea lion", "owl")
"""Classes of the tests."""
TEMPLATES = ("a photo of a {}.", "an icon of a {}.")
"""Prompts of the tests."""
_BATCH, _STEPS = 6, 3
_TURN = itertools.count()


def check_method(method: Method, families: Sequence[str] | None = None) -> list[str]:
    """Runs every check on every family; returns ``"family: check"`` for each that passed.

    Args:
        method: an instance; its knobs are what is checked. Streams are taken from ``StreamSpec.example``.
        families: of ``steadyclip.models.testing.FAMILIES``; by default all that can be built here.

    Raises:
        AssertionError: the first broken promise.
    """
    method.check()
    passed = []
    for family in installed_families() if families is None else families:
        for name, check in CHECKS.items():
            try:
                check(method, tiny(family))
            except AssertionError as error:
                raise AssertionError(f"{method.name} on {family}, {name}: {error}") from error
            passed.append(f"{family}: {name}")
    return passed


def starts_frozen(method: Method, model: DualEncoder) -> bool:
    """Whether, before the first step, features of images and class prompts are the frozen model's. Measured, as it
    may depend on words: CoOp's does if its first tokens and its template spell the data set's prompt."""
    attach(method, model)
    f = _features(method, model)
    both = [(Image(), Image(state="frozen")), (Text(), Text(state="frozen"))]
    method.planner(model).fill(f, [f.canonical(read) for pair in both for read in pair])
    return all(
        torch.allclose(f[a].expand_as(f[b]) if f[a].ndim == f[b].ndim else f[a][0], f[b], atol=1e-6) for a, b in both
    )


def attach(method: Method, model: DualEncoder) -> None:
    """The method's pieces on ``model``, with the same initial values every time."""
    torch.manual_seed(0)
    method.attach(model, NAMES)


def train_a_little(
    method: Method, model: DualEncoder, steps: int = _STEPS, precision: str = "fp32", accumulate: int = 1
) -> Step | None:
    """Attaches the method, fills its head, and makes a few plain gradient steps on random images."""
    attach(method, model)
    torch.manual_seed(next(_TURN))  # another state each time: what a training draws must be seeded by its step
    assert model.head is not None, "attach() leaves no head"
    if method.head.solves:
        fill_head(method.planner(model), _task(0), TrainConfig(progress=False))
    if method.recipe is None:
        return None
    step = Step(method, model, NAMES, TEMPLATES, accumulate)
    step.planner.arithmetic = lambda: arithmetic(model.device, precision)  # type: ignore[arg-type]
    average = RunningAverage(method, step, steps, 1)
    assert step.trained, "it has a recipe, but nothing to train"
    model.eval()
    model.adapters.train()
    optimizer = torch.optim.SGD(step.trained.values(), lr=0.05)
    for number in range(steps):
        optimizer.zero_grad()
        step.gradients(batch(method, model, number), seed=number)
        optimizer.step()
        average.update(number + 1)
    average.finish()
    return step


def batch(method: Method, model: DualEncoder, number: int = 0) -> Batch:
    """A batch of random images with the method's own streams."""
    task = _task(number)
    streams = {}
    for name, spec in method.streams().items():
        stream = spec.example(model, task)
        streams[name] = stream.collate([stream.item(i % len(stream), random.Random(number)) for i in range(_BATCH)])
    images_BCHW = torch.stack([model.preprocess(task.train.read(i)) for i in range(_BATCH)])
    return Batch(torch.tensor(task.train.labels), task.train.keys, images_BCHW, streams=streams)


def _off_is_frozen(method: Method, model: DualEncoder) -> None:
    before, scale = _encoded(model), model.logit_scale.clone()
    train_a_little(method, model)
    model.eval()
    with model.frozen():
        assert _equal(before, _encoded(model)), "inside frozen() the features are not the pretrained ones"
        assert torch.equal(scale, model.logit_scale), "inside frozen() the logit scale is not the pretrained one"


def _only_its_own(method: Method, model: DualEncoder) -> None:
    reference = copy.deepcopy(model)
    train_a_little(method, model)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in reference.named_parameters():
        now = model.get_parameter(name)
        assert name in free or torch.equal(value, now), f"{name} changed but is not trained"
    attach(method, reference)
    start, end = reference.trained_state(), model.trained_state()
    assert method.learns == bool(end), f"trained_state holds {len(end)} tensors"
    changed = any(start[k].shape != end[k].shape or not torch.equal(start[k], end[k]) for k in end)
    assert not method.learns or changed, "nothing was learned"
    averages = bool(end) and model.frozen_weights().keys() == end.keys()
    assert method.own_weights == averages, f"own_weights is {method.own_weights}, and they can be averaged: {averages}"


def _untouched_is_frozen(method: Method, model: DualEncoder) -> None:
    towers = {"image": _encoded_images, "text": _encoded_texts}
    before = {tower: encode(model) for tower, encode in towers.items()}
    train_a_little(method, model)
    model.eval()
    for tower in towers.keys() - method.touched:
        now = towers[tower](model)
        assert torch.equal(before[tower], now), f"the {tower} features changed, but no piece says so"


def _replays(method: Method, model: DualEncoder) -> None:
    if method.recipe is None:
        return
    other = copy.deepcopy(model)
    grads = []
    for each, chunk in ((model, None), (other, 2)):
        step = train_a_little(method, each, steps=1)
        assert step is not None
        each.eval()  # dropout depends on what goes through together
        _move(step.trained.values())
        step.planner.chunks = {"image": chunk, "text": chunk}
        for parameter in step.trained.values():
            parameter.grad = None
        step.gradients(batch(method, each), seed=1)
        grads.append({name: p.grad for name, p in step.trained.items() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys(), "other parameters have a gradient when passes go through in parts"
    for name, gradient in grads[0].items():
        error = float((gradient - grads[1][name]).abs().max()) / max(1e-3, float(gradient.abs().max()))
        assert error < 2e-4, f"the gradient of {name} differs by {error:.1e} when passes go through in parts"


def _move(parameters: Iterable[Tensor]) -> None:
    """Away from the frozen model, the same way each time: where an L1 distance to it is almost 0, the last digit of a
    feature decides the sign of its gradient."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))


def _round_trip(method: Method, model: DualEncoder) -> None:
    other = copy.deepcopy(model)
    train_a_little(method, model)
    attach(method, other)
    other.load_trained_state(safetensors.torch.load(safetensors.torch.save(model.trained_state())))
    assert torch.equal(_logits(method, model), _logits(method, other)), "logits differ after saving and loading"


def _merge_is_forward(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model)
    if not method.mergeable:
        return
    model.eval()
    before, logits_BC, head = _encoded(model), _logits(method, model), model.head
    method.merge(model)
    assert not model.adapters, "adapters are left after the merge"
    error = max(float((a - b).abs().max()) for a, b in zip(before, _encoded(model), strict=True))
    assert error < 1e-5, f"merged features differ by {error:.1e}"
    model.head = head
    plain = method if method.head.learns else dataclasses.replace(get_method("zero-shot"), head=method.head)
    error = float((logits_BC - _logits(plain, model)).abs().max())
    assert error < 1e-3, f"merged logits differ by {error:.1e}"
    model.detach_all()
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        assert _equal(_encoded(model), _encoded(load(folder))), "the merged model changes when saved as plain weights"


def _detaches(method: Method, model: DualEncoder) -> None:
    before = _encoded(model)
    train_a_little(method, model)
    model.eval()
    network_is_trained = any(p.requires_grad for p in model.network.parameters())
    model.detach_all()
    assert network_is_trained or _equal(before, _encoded(model)), "something stays behind when adapters are taken off"


def _let_go(method: Method, model: DualEncoder) -> None:
    """A reference cycle would keep the model until the garbage collector comes by, which a full GPU does not call."""
    own = copy.deepcopy(model)
    there = weakref.ref(own)
    collecting = gc.isenabled()
    gc.disable()
    try:
        train_a_little(method, own)
        _logits(method, own)
        del own
        assert there() is None, "the deleted model stays in memory: something that refers to it refers to itself"
    finally:
        if collecting:
            gc.enable()


def _deterministic(method: Method, model: DualEncoder) -> None:
    other = copy.deepcopy(model)
    train_a_little(method, model)
    train_a_little(method, other)
    first, second = model.trained_state(), other.trained_state()
    assert all(torch.equal(first[k], second[k]) for k in first), "the same seed gave other weights"


def _bf16(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model, precision="bf16")
    finite = all(bool(value.isfinite().all()) for value in model.trained_state().values())
    assert finite, "weights are not finite after bf16 steps"
    model.eval()
    planner = method.planner(model)
    planner.arithmetic = lambda: arithmetic(model.device, "bf16")
    f = _features(method, model)
    planner.fill(f, planner.canonical([Image(), Text()]))
    for read in (Image(), Text()):
        features = f.get(read)
        assert features.dtype == torch.float32, f"{read.tower} features are {features.dtype} under bf16 autocast"
        assert bool(features.isfinite().all()), f"{read.tower} features are not finite in bf16"


def _head(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model)
    logits_BC = _logits(method, model)
    assert logits_BC.shape == (_BATCH, len(NAMES)), f"logits have shape {tuple(logits_BC.shape)}"
    try:
        logits_BC = _logits(method, model, ("never", "seen"))
    except NoHead:  # the one way to refuse names
        assert method.head.own_classes, "its head refuses new names, but own_classes does not say so"
    else:
        assert logits_BC.shape == (_BATCH, 2), f"logits of two new names have shape {tuple(logits_BC.shape)}"
    f = _features(method, model)
    f.names, f.scoring = NAMES, True
    planner = method.planner(model)
    planner.fill(f, planner.canonical([Image(), *model.head.reads(scoring=True)]))
    rows = model.head.rows(f)
    assert rows is not None or not method.mergeable, "it says that it can be merged, but its head has no plain rows"
    if rows is not None:
        weight_CD, bias_C = rows
        plain_BC = f[Image()] @ weight_CD.T + (0 if bias_C is None else bias_C)
        assert torch.allclose(plain_BC, f.logits(), rtol=1e-4, atol=1e-4), "the head's plain rows give other logits"


def _knobs(method: Method, model: DualEncoder) -> None:
    again = make_method(type(method), method.knobs())
    assert again == method or again.knobs() == method.knobs(), "knobs() does not rebuild the method"
    for knob, value in method.knobs().items():
        typed = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        typed = typed.lower() if isinstance(value, bool) or value is None else typed
        rebuilt = make_method(type(method), {**method.knobs(), knob: typed}).knobs()[knob]
        assert rebuilt == value, f"knob {knob} cannot be typed as {typed!r}"


CHECKS: dict[str, Callable[[Method, DualEncoder], None]] = {
    "adapters off equals frozen": _off_is_frozen,
    "only its parameters change": _only_its_own,
    "untouched towers stay frozen": _untouched_is_frozen,
    "same seed, same weights": _deterministic,
    "passes in parts, same gradient": _replays,
    "save and load": _round_trip,
    "merge equals forward": _merge_is_forward,
    "detach leaves nothing": _detaches,
    "a deleted model is let go": _let_go,
    "bf16": _bf16,
    "head": _head,
    "knobs": _knobs,
}


class _Drawn:
    """A store of random images, made from their key."""

    def read(self, key: str) -> bytes:
        pixels = random.Random(key).randbytes(40 * 40 * 3)
        buffer = io.BytesIO()
        PILImage.frombytes("RGB", (40, 40), pixels).save(buffer, "PNG")
        return buffer.getvalue()


def _task(number: int) -> ImageTask:
    labels = tuple(i % len(NAMES) for i in range(_BATCH))
    keys = tuple(f"{number}-{i}.png" for i in range(_BATCH))
    captions = tuple(f"{'one' if i % 2 else 'a big'} {NAMES[label]}" for i, label in enumerate(labels))
    images = ImageSet("tiny", NAMES, TEMPLATES, keys, labels, (None,) * _BATCH, captions, _Drawn())
    return ImageTask("tiny", images, images.subset(()), shots=None, seed=1, subset="all")


def _features(method: Method, model: DualEncoder) -> Features:
    return method.planner(model).features(NAMES, TEMPLATES, batch(method, model, 99), seed=0)


def _logits(method: Method, model: DualEncoder, names: Sequence[str] = NAMES) -> Tensor:
    model.eval()
    scorer = Scorer(model, method, names, TEMPLATES)
    images_BCHW = batch(method, model, 99).images_BCHW
    assert images_BCHW is not None
    with torch.no_grad():
        return scorer.logits(model.run("image", images_BCHW, wanted=frozenset(r.what for r in scorer.reads)))


@torch.no_grad()
def _encoded_images(model: DualEncoder) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    return model.encode_image(torch.randn(_BATCH, 3, *model.preprocess.size, generator=generator))


@torch.no_grad()
def _encoded_texts(model: DualEncoder) -> Tensor:
    return model.encode_text([TEMPLATES[1].format(name) for name in NAMES])


def _encoded(model: DualEncoder) -> tuple[Tensor, Tensor]:
    """Unit features of fixed images and texts."""
    return _encoded_images(model), _encoded_texts(model)


def _equal(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
