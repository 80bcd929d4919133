"""Made-up records, for everything that is made from records."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence

import pytest
from PIL import Image, ImageDraw

from steadyclip.evaluation.records import (
    ClassScore,
    Confusion,
    DataInfo,
    Example,
    MethodInfo,
    Metrics,
    ModelInfo,
    Record,
)

_RECIPE = {"optimizer": "adamw", "learning_rate": 2e-4, "weight_decay": 0.01, "steps": 500, "batch_size": 32}
_NO_HEAD = "a linear probe knows no names: 20 of 20 classes were not trained on."


def _thumbnail(seed: int) -> str:
    """A small coloured drawing as base64 PNG."""
    rng = random.Random(seed)
    image = Image.new("RGB", (64, 64), tuple(rng.randrange(180, 256) for _ in range(3)))
    box = [rng.randrange(4, 20), rng.randrange(4, 20), rng.randrange(40, 60), rng.randrange(40, 60)]
    getattr(ImageDraw.Draw(image), rng.choice(["ellipse", "rectangle"]))(
        box, fill=tuple(rng.randrange(200) for _ in range(3))
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def _make(
    method: str = "zero-shot",
    subset: str = "base",
    top1: float | None = 0.5,
    *,
    seed: int | None = None,
    shots: int | None = None,
    name: str = "icons",
    domain: str | None = "lines",
    images: int | None = None,
    classes: Sequence[str] = ("acorn", "egg", "fox"),
    recipe: dict | None = None,
    created: str = "2026-11-20T10:00:00+00:00",
    torch: str = "2.13.0",
    weights_hash: str = "0123456789abcdef",
    knobs: dict | None = None,
    skipped: tuple[tuple[str, str], ...] = (),
    data_hash: str = "feedfeedfeedfeed",
    note: str = "",
    role: str = "",
) -> Record:
    """A record with ``top1``, or with the reason of a linear probe when it is None."""
    half = 0.03
    images = images or {"base": 900, "new": 1100}.get(subset, 1000)
    training = None if seed is None else {"recipe": _RECIPE if recipe is None else recipe, "config": {"seed": seed}}
    if training and role:
        training["task"] = {"name": "icons", "subset": "all"}
    pairs = [(a, b) for a in classes for b in classes if a != b][:5]
    return Record(
        created=created,
        versions={"steadyclip": "0.1.0", "python": "3.11.2", "torch": torch, "transformers": "5.1.0"},
        commit="55fc04b00000000000000000000000000000cafe",
        model=ModelInfo("icons-tiny", "clip", weights_hash),
        method=MethodInfo(method, knobs or {}, method),
        training=training,
        data=DataInfo(name, subset, domain, tuple(classes), ("a photo of a {}.",), images, data_hash, skipped),
        shots=shots,
        seed=seed,
        metrics=None if top1 is None else Metrics(top1, top1, 0.08, (max(0.0, top1 - half), min(1.0, top1 + half))),
        reason=_NO_HEAD if top1 is None else None,
        per_class=tuple(ClassScore(c, 10, 5) for c in classes) if top1 is not None else (),
        confusions=tuple(
            Confusion(a, b, 9 - i, tuple(Example(f"{a}/{k}.png", _thumbnail(100 * i + k)) for k in range(3)))
            for i, (a, b) in enumerate(pairs)
        )
        if top1 is not None
        else (),
        seconds=2.0,
        images_per_second=500.0,
        note=note,
        role=role,
    )


@pytest.fixture
def make() -> Callable[..., Record]:
    return _make


@pytest.fixture
def experiment() -> list[Record]:
    """Four methods, base to new, three seeds: what the demo makes."""
    records = [_make("zero-shot", "base", 0.541), _make("zero-shot", "new", 0.573)]
    scores = {
        "linear-probe": ([0.742, 0.751, 0.738], [None] * 3),
        "full": ([0.661, 0.668, 0.663], [0.489, 0.499, 0.488]),
        "lora": ([0.701, 0.708, 0.697], [0.569, 0.574, 0.571]),
    }
    for method, (base, new) in scores.items():
        for seed, (b, n) in enumerate(zip(base, new, strict=True), 1):
            knobs = {"rank": 2, "alpha": 1.0, "dropout": 0.25} if method == "lora" else {}
            recipe = None if method != "linear-probe" else {}
            for subset, top1 in (("base", b), ("new", n)):
                records.append(_make(method, subset, top1, seed=seed, shots=16, knobs=knobs, recipe=recipe))
    return records
