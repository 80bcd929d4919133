"""What every method must keep, as one call: ``check_method(MyMethod())``. Registering a method puts it under test.

Each check runs on a tiny randomly initialized model of every family, and raises ``AssertionError`` with the method, the
family and the broken promise.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from steadyclip.methods.base import Batch, Method, NoHead, get_method
from steadyclip.models import DualEncoder, load
from steadyclip.models.testing import installed_families, tiny

NAMES = ("cat", "dog", "sea lion", "owl")
"""Classes of the tests."""
TEMPLATES = ("a photo of a {}.", "an icon of a {}.")
"""Prompts of the tests."""


def check_method(method: Method, families: Sequence[str] | None = None) -> list[str]:
    """Runs every check on every family; returns ``"family: check"`` for each that passed.

    Args:
        method: an instance; its knobs are what is checked.
        families: of ``steadyclip.models.testing.FAMILIES``; by default all that can be built here.

    Raises:
        AssertionError: the first broken promise.
    """
    passed = []
    for family in installed_families() if families is None else families:
        for name, check in CHECKS.items():
            try:
                check(method, tiny(family))
            except AssertionError as error:
                raise AssertionError(f"{method.name} on {family}, {name}: {error}") from error
            passed.append(f"{family}: {name}")
    return passed


def train_a_little(method: Method, model: DualEncoder, steps: int = 3, precision: torch.dtype | None = None) -> None:
    """Adapts ``model`` and makes a few plain gradient steps (or one ``solve``) on random images."""
    torch.manual_seed(0)
    method.adapt(model, NAMES)
    if method.uses_frozen_features:
        labels_N = torch.arange(40) % len(NAMES)
        features_ND = torch.nn.functional.normalize(torch.randn(40, model.embed_dim), dim=-1)
        method.solve(model, (features_ND, labels_N), (features_ND, labels_N), seed=0)
        return
    if method.recipe is None:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05)
    for step in range(steps):
        with torch.autocast("cpu", precision or torch.bfloat16, enabled=precision is not None):
            loss = torch.stack(list(method.loss(model, _batch(model, step)).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _starts_frozen(method: Method, model: DualEncoder) -> None:
    before = _features(model)
    torch.manual_seed(0)
    method.adapt(model, NAMES)
    if method.starts_frozen:
        assert _equal(before, _features(model)), "step 0 is not the frozen model bit for bit"


def _off_is_frozen(method: Method, model: DualEncoder) -> None:
    before, scale = _features(model), model.logit_scale.clone()
    train_a_little(method, model)
    model.eval()
    with model.frozen():
        assert _equal(before, _features(model)), "inside frozen() the features are not the pretrained ones"
        assert torch.equal(scale, model.logit_scale), "inside frozen() the logit scale is not the pretrained one"


def _only_its_own(method: Method, model: DualEncoder) -> None:
    reference = copy.deepcopy(model)
    train_a_little(method, model)
    free = {name for name, p in model.named_parameters() if p.requires_grad}
    for name, value in reference.named_parameters():
        assert name in free or torch.equal(value, dict(model.named_parameters())[name]), (
            f"{name} changed but is not trained"
        )
    torch.manual_seed(0)
    method.adapt(reference, NAMES)
    start, end = reference.trained_state(), model.trained_state()
    learns = method.recipe is not None or method.uses_frozen_features
    assert learns == bool(end), f"trained_state holds {len(end)} tensors"
    assert not learns or any(not torch.equal(start[k], end[k]) for k in end), "nothing was learned"
    averages = bool(end) and model.frozen_state().keys() == end.keys()
    assert method.own_weights == averages, f"own_weights is {method.own_weights}, and they can be averaged: {averages}"


def _round_trip(method: Method, model: DualEncoder) -> None:
    other = copy.deepcopy(model)
    train_a_little(method, model)
    method.adapt(other, NAMES)
    with tempfile.TemporaryDirectory() as folder:
        save_file(model.trained_state(), Path(folder) / "trained.safetensors")
        other.load_trained_state(load_file(Path(folder) / "trained.safetensors"))
    model.eval()
    other.eval()
    assert _equal(_features(model), _features(other)), "features differ after saving and loading"
    heads = [method.head(m, NAMES, TEMPLATES) for m in (model, other)]
    assert torch.equal(heads[0].weight_CD, heads[1].weight_CD), "heads differ after saving and loading"


def _merge_is_forward(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model)
    model.eval()
    if not method.mergeable:
        return
    before = _features(model)
    method.merge(model)
    assert not model.adapters, "adapters are left after the merge"
    error = max(float((a - b).abs().max()) for a, b in zip(before, _features(model), strict=True))
    assert error < 1e-5, f"merged features differ by {error:.1e}"
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        assert _equal(_features(model), _features(load(folder))), "the merged model changes when saved as plain weights"


def _detaches(method: Method, model: DualEncoder) -> None:
    before = _features(model)
    train_a_little(method, model)
    model.eval()
    network_is_trained = any(p.requires_grad for p in model.network.parameters())
    model.detach_all()
    assert network_is_trained or _equal(before, _features(model)), "something stays behind when adapters are taken off"


def _deterministic(method: Method, model: DualEncoder) -> None:
    other = copy.deepcopy(model)
    train_a_little(method, model)
    train_a_little(method, other)
    first, second = model.trained_state(), other.trained_state()
    assert all(torch.equal(first[k], second[k]) for k in first), "the same seed gave other weights"


def _bf16(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model, precision=torch.bfloat16)
    assert all(bool(v.isfinite().all()) for v in model.trained_state().values()), (
        "weights are not finite after bf16 steps"
    )
    model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        for features in _features(model):
            assert features.dtype == torch.float32, f"features are {features.dtype} under bf16 autocast"
            assert torch.allclose(features.norm(dim=-1), torch.ones(len(features)), atol=1e-5), "features are not unit"


def _head(method: Method, model: DualEncoder) -> None:
    train_a_little(method, model)
    model.eval()
    image_BD, _ = _features(model)
    with torch.no_grad():
        logits_BC = method.head(model, NAMES, TEMPLATES).logits(image_BD)
    assert logits_BC.shape == (len(image_BD), len(NAMES)), f"logits have shape {tuple(logits_BC.shape)}"
    with contextlib.suppress(NoHead):  # the one way to refuse names
        weight_CD = method.head(model, ("never", "seen"), TEMPLATES).weight_CD
        assert weight_CD.shape == (2, model.embed_dim), f"a head of two new names has shape {tuple(weight_CD.shape)}"


def _knobs(method: Method, model: DualEncoder) -> None:
    assert get_method(method.name, method.knobs()) == method, "knobs() does not rebuild the method"
    for knob, value in method.knobs().items():
        typed = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value).lower()
        assert get_method(method.name, {knob: typed}).knobs()[knob] == value, (
            f"knob {knob} cannot be typed as {typed!r}"
        )


CHECKS: dict[str, Callable[[Method, DualEncoder], None]] = {
    "step 0 equals frozen": _starts_frozen,
    "adapters off equals frozen": _off_is_frozen,
    "only its parameters change": _only_its_own,
    "save and load": _round_trip,
    "merge equals forward": _merge_is_forward,
    "detach leaves nothing": _detaches,
    "same seed, same weights": _deterministic,
    "bf16": _bf16,
    "head": _head,
    "knobs": _knobs,
}


def _batch(model: DualEncoder, step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)
    images_BCHW = _images(model, generator)
    labels_B = torch.arange(len(images_BCHW)) % len(NAMES)
    texts = [f"{'one' if i % 2 else 'a big'} {NAMES[i % len(NAMES)]}" for i in range(len(images_BCHW))]
    return Batch(
        images_BCHW,
        labels_B,
        prompts=model.tokenize([TEMPLATES[0].format(name) for name in NAMES]),
        step=step,
        streams={"captions": {"texts": texts}, "pairs": {"images_BCHW": images_BCHW.flip(0), "texts": texts}},
        classes=NAMES,
        templates=TEMPLATES,
        keys=tuple(f"{i}.png" for i in range(len(images_BCHW))),
        seed=step,
    )


def _images(model: DualEncoder, generator: torch.Generator) -> Tensor:
    return torch.randn(6, 3, *model.preprocess.size, generator=generator)


@torch.no_grad()
def _features(model: DualEncoder) -> tuple[Tensor, Tensor]:
    images_BCHW = _images(model, torch.Generator().manual_seed(99))
    return model.encode_image(images_BCHW), model.encode_text([TEMPLATES[1].format(name) for name in NAMES])


def _equal(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
