"""Made-up records, for everything that is made from records."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from msgspec import structs
from PIL import Image, ImageDraw

from steadyclip.evaluation.paired import packed
from steadyclip.evaluation.records import (
    ClassScore,
    Confusion,
    DataInfo,
    Drift,
    Example,
    MethodInfo,
    Metrics,
    ModelInfo,
    Record,
    Results,
    Run,
    TaskInfo,
    TowerDrift,
)
from steadyclip.experiments.protocols import (
    GENERIC,
    Plan,
    Source,
    Target,
    base_to_new,
    cells,
    few_shot,
    from_source,
)
from steadyclip.experiments.rows import parse_rows
from steadyclip.experiments.settings import settings_for
from steadyclip.methods import methods

_RECIPE = {"optimizer": "adamw", "learning_rate": 2e-4, "weight_decay": 0.01, "steps": 500, "batch_size": 32}
_TRAINED = ("acorn", "egg", "fox")
_NO_HEAD = "a linear probe knows no names: 20 of 20 classes were not trained on."


def _thumbnail(seed: int) -> str:
    """A small colored drawing as base64 PNG."""
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
    model: str = "icons-small",
    drift: tuple[float, float] | None = None,
    wise_alpha: float | None = None,
    source: str = "icons",
    choices: dict | None = None,
    correct: np.ndarray | None = None,
) -> Record:
    """A record with ``top1``, or with the reason of a linear probe when it is None."""
    half = 0.03
    if correct is not None:
        images, top1 = len(correct), float(correct.mean())
    images = images or {"base": 900, "new": 1100}.get(subset, 1000)
    content = f"images of {seed}" if shots else "all images"
    label = method + ("" if wise_alpha is None else f", alpha {wise_alpha:g}")
    about = MethodInfo(method, knobs or {}, label)
    training = None if seed is None else Run(
        created=created, model=ModelInfo(model, "clip", weights_hash), method=about,
        recipe=_RECIPE if recipe is None else recipe, config={"seed": seed},
        task=TaskInfo(source, "all", shots, seed, content, _TRAINED, ("a photo of a {}.",), 320, 80),
        results=Results(500, 60.0, 260.0, choices=choices or {}), versions={}, commit=None,
    )  # fmt: skip
    pairs = [(a, b) for a in classes[:4] for b in classes[:4] if a != b][:5]
    return Record(
        created=created,
        versions={"steadyclip": "0.1.0", "python": "3.11.2", "torch": torch, "transformers": "5.1.0"},
        commit="55fc04b00000000000000000000000000000cafe",
        model=ModelInfo(model, "clip", weights_hash),
        method=about,
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
        correct="" if correct is None else packed(correct),
        note=note,
        role=role,
        drift=drift and Drift(*(TowerDrift(1 - moved, 1 - moved / 2) for moved in drift)),
        wise_alpha=wise_alpha,
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


_DOMAINS = ("fill", "duotone", "solid", "emoji")
_TOPICS = ("animals", "food", "transport", "nature", "objects", "symbols", "concepts")
ICON_SETS = tuple(f"icon-{topic}" for topic in _TOPICS)
PROTOCOLS: dict[str, Plan] = {
    "base-to-new": base_to_new(["icons"]),
    "few-shot": few_shot(["icons"]),
    "cross-dataset": from_source(Source("icons"), others=ICON_SETS),
    "domain-generalization": from_source(Source("icons"), domains=_DOMAINS),
    "robust": from_source(Source("icons"), None, _DOMAINS, others=ICON_SETS, prompts=GENERIC),
}


def _top1(method: str, test: Target, shots: int | None, rng: random.Random) -> float:
    """Tuned: better at home and a little under shift, worse on what was not trained on."""
    chars = random.Random(f"{test.data.name} {test.subset} {test.domain}").uniform(-0.08, 0.08)
    frozen = {"id": 0.53, "ood": 0.4, "transfer": 0.5}[test.role] + chars
    if method == "zero-shot":
        return frozen
    character = random.Random(method)
    gain = 0.03 + 0.02 * (shots or 32) ** 0.5 * character.uniform(0.3, 1.2)
    slope = {"id": 1.0, "ood": character.uniform(-0.2, 0.8), "transfer": -character.uniform(0.1, 1.0)}[test.role]
    return frozen + slope * gain + rng.gauss(0, 0.006)


@pytest.fixture
def grid() -> Callable[[str], list[Record]]:
    """Protocol -> what its grid leaves on the icon world: every method there is, three seeds."""

    def records(protocol: str) -> list[Record]:
        rows = parse_rows(
            ["zero-shot", *(name for name in methods() if name != "zero-shot")], settings_for("icons-small")
        )
        found = []
        for cell in cells(PROTOCOLS[protocol], rows, (1, 2, 3)):
            name = cell.row.label
            for test in cell.tests:
                rng = random.Random(f"{name} {test} {cell.sample} {cell.seed}")
                blind = name == "linear-probe" and test.role == "transfer"
                top1 = None if blind else _top1(name, test, cell.sample.shots, rng)
                moved = (random.Random(name).uniform(0.02, 0.5), random.Random(f"{name} text").uniform(0.01, 0.3))
                learns = cell.seed is not None and name != "linear-probe"
                record = _make(
                    name, test.subset, top1, seed=cell.seed, shots=cell.sample.shots if cell.seed else None,
                    name=test.data.name, domain=test.domain or "lines", role=test.role,
                    drift=(moved[0] + rng.gauss(0, 0.01), moved[1] + rng.gauss(0, 0.005)) if learns else None,
                )  # fmt: skip
                data = structs.replace(
                    record.data, hash=f"{test.data.name} {test.subset} {test.domain}", templates=("a photo of a {}.",)
                )
                found.append(structs.replace(record, data=data))
        return found

    return records
