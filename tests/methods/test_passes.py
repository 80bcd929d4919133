"""What goes through the towers in a step: for every method the least possible, as a table."""

from __future__ import annotations

import pytest

from method_world import make_batch
from steadyclip.adapters import LowRank, Prompts, Weights
from steadyclip.heads import LinearHead
from steadyclip.methods import Method, compose, get_method, methods
from steadyclip.models.testing import tiny
from steadyclip.objectives import (
    AttentiveCutout,
    Consistency,
    CrossedEntropy,
    CrossEntropy,
    Cutout,
    Distance,
    FeatureL1,
    Image,
    InfoNCE,
    Text,
)
from steadyclip.testing import NAMES, TEMPLATES, attach, batch
from steadyclip.testing import _task as small_task
from steadyclip.training import TrainConfig
from steadyclip.training.cache import fill_head
from steadyclip.training.step import Step

IMAGE, TEXT = {"image tuned": (1, 6)}, {"text tuned": (1, 4)}  # six images, four classes
FIRST = {"text frozen": (1, 4)}  # remembered after the first step
BOTH = {**IMAGE, **TEXT}
KNOWN = {"image frozen": (1, 6)}
ORTH = {"image tuned": (1, 12), **TEXT}

# Method -> (calls, rows) of a later step, and what the first step has besides.
TABLE: dict[str, tuple[dict, dict] | None] = {
    "zero-shot": None,
    "linear-probe": None,
    "tip-adapter": None,
    "full": (BOTH, {}),
    "lora": (BOTH, {}),
    "bottleneck": (BOTH, {}),
    "compose": (BOTH, {}),
    "dra": ({**BOTH, "image frozen": (1, 6)}, FIRST),
    "orthcr": ({**ORTH, "image frozen": (1, 12)}, FIRST),
    "orthsr": ({**ORTH, "image frozen": (2, 12)}, FIRST),  # the cut is known only after the first frozen pass
    "flyp": (BOTH, {}),  # six images of four classes: as many distinct prompts
    "arf": ({"image tuned": (1, 12), "text tuned": (1, 10)}, {}),  # four prompts, four captions, two more of pairs
    "coop": ({"image frozen": (1, 6), **TEXT}, {}),
    "cocoop": ({"image frozen": (1, 6), "text tuned": (1, 24)}, {}),
    "tip-adapter-f": (KNOWN, {"text frozen": (1, 8)}),  # all templates
    "kgcoop": ({**KNOWN, **TEXT}, FIRST),
    "tcp": ({**KNOWN, **TEXT}, FIRST),
    "prograd": ({**KNOWN, **TEXT}, FIRST),
    "maple": (BOTH, {}),
    "ivlp": (BOTH, {}),
    "promptsrc": ({**BOTH, **KNOWN}, {"text frozen": (2, 320)}),  # eighty prompts of four classes
    "mma": (BOTH, {}),
    "mmrl": ({**BOTH, **KNOWN}, FIRST),
    "clip-adapter": (KNOWN, FIRST),
    "taskres": (KNOWN, {"text frozen": (1, 8)}),
    "zs-lp": (KNOWN, {}),  # its rows were filled before
    "clap": (KNOWN, {}),
    "lp++": None,
    "cross-modal": (KNOWN, FIRST),
    "ft": (IMAGE, {}),
    "lp-ft": (IMAGE, {}),
    "l2-sp": (BOTH, {}),
    "car-ft": ({**IMAGE, "text tuned": (1, 84), **KNOWN}, {"text frozen": (1, 80)}),  # eighty contexts
    "lipsum-ft": ({**IMAGE, **KNOWN, "text frozen": (1, 80)}, {}),  # other texts in each step
    "clipood": (IMAGE, FIRST),
}

KNOBS = [
    ("dra", {"l1": "off"}, BOTH, {}),
    ("dra", {"l1": "delta"}, BOTH, {}),  # what adapters add comes out of the tuned passes
    ("dra", {"towers": "image"}, {**IMAGE, "image frozen": (1, 6)}, FIRST),
    ("dra", {"towers": "text"}, {**TEXT, "image frozen": (1, 6)}, FIRST),
    ("orthsr", {"cut": "plain"}, {**ORTH, "image frozen": (1, 12)}, FIRST),
    ("orthsr", {"l1": 0, "l2": 0}, {**ORTH, "image frozen": (1, 6)}, FIRST),  # for the cut alone
    ("orthcr", {"cut": "off"}, {**BOTH, "image frozen": (1, 6)}, FIRST),
    ("orthcr", {"l1": 0, "l2": 0}, ORTH, {}),
    ("full", {"towers": "image"}, IMAGE, FIRST),
    ("lora", {"towers": "text"}, {**TEXT, "image frozen": (1, 6)}, {}),
    ("arf", {"l_r": 0}, {**IMAGE, "text tuned": (1, 8)}, {}),
]

CUT = AttentiveCutout()
COMPOSITIONS = {
    "two terms on the same features": (
        {"objective": CrossEntropy() + FeatureL1("image") + Distance(Image(), Image(state="frozen"), "cosine")},
        {**BOTH, "image frozen": (1, 6)},
        {},
    ),
    "five terms on two views": (
        {
            "adapters": (LowRank("image"),),
            "objective": CrossEntropy() + Consistency() + CrossEntropy(Image(CUT)) + Consistency(CUT)
            + Distance(Image(CUT), Image(CUT, "frozen"), "cosine"),
        },
        {"image tuned": (1, 12), "image frozen": (2, 12)},
        FIRST,
    ),
    "learned words beside an image tower in three views": (
        {
            "adapters": (Prompts(init="a photo of a"), LowRank("image")),
            "objective": CrossEntropy() + CrossedEntropy() + CrossEntropy(Image(Cutout(0.3)))
            + CrossEntropy(Image(Cutout())) + 0 * InfoNCE(Text()),
        },
        {"image tuned": (1, 18), **TEXT, "image frozen": (1, 6)},
        FIRST,
    ),
    "rows of weights, so no text at all": (
        {"adapters": (Weights("image"),), "head": LinearHead(strength=1.0)},
        IMAGE,
        {},
    ),
}  # fmt: skip


def calls_of(method: Method, steps: int = 3, **step_options) -> list[dict[str, tuple[int, int]]]:
    """``{"image tuned": (calls, rows), ...}`` of each step."""
    model, found, before = tiny("clip"), [], {}
    attach(method, model)
    if method.head.solves:
        fill_head(method.planner(model), small_task(0), TrainConfig(progress=False))
    step = Step(method, model, NAMES, TEMPLATES, **step_options)
    for number in range(steps):
        step.gradients(batch(method, model, number), seed=number)
        now = dict(step.planner.calls)
        new = {name: count - before.get(name, 0) for name, count in now.items()}
        sides = {name.rsplit(" ", 1)[0] for name, count in new.items() if count}
        found.append({side: (new[f"{side} calls"], new[f"{side} rows"]) for side in sides})
        before = now
    return found


def test_every_method_has_a_line() -> None:
    assert set(methods()) == set(TABLE)
    assert {name for name in methods() if get_method(name).recipe is None} == {
        n for n, line in TABLE.items() if not line
    }


@pytest.mark.parametrize("name", [name for name, line in TABLE.items() if line])
def test_a_step_of_a_method(name: str) -> None:
    later, first = TABLE[name]
    assert calls_of(get_method(name)) == [{**later, **first}, later, later]


@pytest.mark.parametrize(("name", "knobs", "later", "first"), KNOBS, ids=lambda x: str(x)[:30])
def test_a_step_of_a_method_with_knobs(name: str, knobs: dict, later: dict, first: dict) -> None:
    assert calls_of(get_method(name, knobs), 2) == [{**later, **first}, later]


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_step_of_a_composition(name: str) -> None:
    pieces, later, first = COMPOSITIONS[name]
    pieces = {"adapters": (LowRank(),), **pieces}
    assert calls_of(compose(name, **pieces), 2) == [{**later, **first}, later]


@pytest.mark.parametrize(
    ("name", "later"),
    [
        ("lora", {"image tuned": (2, 6), **TEXT}),  # image rows once, class texts once, not once a part
        ("dra", {"image tuned": (2, 6), "image frozen": (2, 6), **TEXT}),
        # the whole batch is compared, so each part goes through twice; so do texts that belong to images
        ("flyp", {"image tuned": (4, 12), "text tuned": (4, 8)}),
        ("cocoop", {"image frozen": (2, 6), "text tuned": (2, 24)}),
    ],
)
def test_a_batch_in_two_parts(name: str, later: dict) -> None:
    assert calls_of(get_method(name), 2, accumulate=2)[1] == later


def test_known_features_go_through_no_tower() -> None:
    """As from the training's cache: CoOp's images."""
    method, model = get_method("coop"), tiny("clip")
    attach(method, model)
    step, whole = Step(method, model, NAMES, TEMPLATES), make_batch()
    f = step.planner.features(NAMES, TEMPLATES, whole)
    read = f.canonical(Image())
    step.planner.fill(f, [read])
    step.planner.calls.clear()
    whole.known, whole.images_BCHW = {read: f.raw[read]}, None
    step.gradients(whole, seed=0)
    assert step.planner.calls == {"text tuned calls": 1, "text tuned rows": 4}
