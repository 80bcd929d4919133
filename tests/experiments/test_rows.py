"""What a user types for a row, and what becomes of it."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import pytest

import steadyclip
from steadyclip.adapters import AdapterSpec, LowRank, Orthogonal
from steadyclip.core.errors import UsageError
from steadyclip.core.spec import KNOWN
from steadyclip.experiments.rows import RECIPE, TRAINING, parse_row, parse_rows
from steadyclip.experiments.settings import settings_for
from steadyclip.heads import HeadSpec
from steadyclip.methods import Average, Recipe, get_method, methods, registry
from steadyclip.methods.knobs import knobs_of
from steadyclip.objectives import Consistency, CrossEntropy, as_objective
from steadyclip.training.config import DECIDES, RunConfig, TrainConfig

TINY = settings_for("icons-small")
MINE = """
from steadyclip.adapters import Bottleneck, LowRank
from steadyclip.methods import Method, Recipe, compose

class Mine(Method):
    name = "mine-of-{name}"
    adapters = (LowRank(), Bottleneck())
    recipe = Recipe(epochs=3)

class Shadow(Method):
    name = "shadow-of-{name}"
    epochs: int = 3

MIX = compose("mix", adapters=(LowRank(rank=3),), recipe=Recipe(epochs=7))
"""


@pytest.fixture
def mine(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    name = re.sub(r"\W", "_", request.node.name)
    file = tmp_path / f"mine_{name}.py"
    file.write_text(MINE.replace("{name}", name))
    return file


def test_a_plain_row_is_the_method_as_published() -> None:
    row = parse_row("lora")
    assert row.label == "lora"
    assert row.method == get_method("lora")
    assert row.recipe == get_method("lora").recipe
    assert row.config == {}
    assert row.settings == "published"
    assert steadyclip.parse_row("lora") == row


def test_keys_go_to_knobs_recipe_and_training() -> None:
    text = "lora[rank=4, layers=q:fc1, epochs=5, augment=off, learning_rate=1e-3, low_rank.alpha=2, cache=off]"
    row = parse_row(text)
    assert row.label == text.replace(" ", "")
    assert row.method.adapters == (LowRank(rank=4, layers=("q", "fc1"), alpha=2.0),)
    assert row.recipe is not None
    assert (row.recipe.epochs, row.recipe.steps_per_shot, row.recipe.learning_rate) == (5.0, None, 1e-3)
    assert row.config == {"augment": False, "cache": "off"}


def test_one_line_reaches_every_part() -> None:
    row = parse_row("orthcr[l1=2,epochs=5,cutout=0.5]")
    assert (row.method.knobs()["l1"], row.method.knobs()["cut"]) == (2.0, "plain")
    assert row.recipe == dataclasses.replace(row.method.recipe or Recipe(epochs=1), epochs=5.0)
    assert row.config == {"cutout": 0.5}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(Recipe)])
def test_every_field_of_the_recipe_is_a_key(name: str) -> None:
    values = {
        "optimizer": "sgd", "learning_rate": 0.5, "weight_decay": 0.25, "momentum": 0.5, "beta2": 0.5, "steps": 7,
        "steps_per_shot": 7, "epochs": 7.5, "batch_size": 7, "warmup_steps": 7, "schedule": "constant",
        "clip_norm": 7.5, "views": 7,
    }  # fmt: skip
    row = parse_row(f"lora[{name}={values[name]}]")
    assert getattr(row.recipe, name) == values[name]


def test_what_decides_a_training_is_a_key_or_an_option() -> None:
    assert {*DECIDES, "cache"} == {*TRAINING, "seed"}
    options = {f.name for f in dataclasses.fields(RunConfig)}
    assert {f.name for f in dataclasses.fields(TrainConfig)} - options == TRAINING.keys() - {"precision"}


def test_no_two_settings_share_a_name() -> None:
    every = Counter([*RECIPE, *(f.name for f in dataclasses.fields(TrainConfig))])
    assert [name for name, count in every.items() if count > 1] == []
    found: dict[str, list[str]] = {name: list(knobs_of(cls())) for name, cls in methods().items()}
    for name, cls in KNOWN.items():
        if issubclass(cls, AdapterSpec | HeadSpec | Average) and cls.__module__.startswith("steadyclip."):
            found[name] = [f.name for f in dataclasses.fields(cls)]
    assert [(name, knob) for name, knobs in found.items() for knob in knobs if knob in every] == []


def test_pieces_of_a_composition() -> None:
    row = parse_row(
        'compose[adapters=Orthogonal() + LowRank(layers=("q","v")), epochs=2, blocks=2,'
        "objective=CrossEntropy() + 1.5 * Consistency(cross=True)]"
    )
    assert row.label == (
        'compose[adapters=Orthogonal()+LowRank(layers=("q","v")),epochs=2,blocks=2,'
        "objective=CrossEntropy()+1.5*Consistency(cross=True)]"
    )
    assert row.method.adapters == (Orthogonal(blocks=2), LowRank(layers=("q", "v")))
    assert row.method.objective() == as_objective(CrossEntropy() + 1.5 * Consistency(cross=True))
    assert row.recipe is not None
    assert row.recipe.epochs == 2


def test_text_may_stand_in_quotes() -> None:
    for text in ("coop[init=an icon of a,epochs=2]", 'coop[ init = "an icon of a", epochs=2]'):
        assert parse_row(text).method.knobs()["init"] == "an icon of a"
    row = parse_row('coop[init="an icon, of a"]')
    assert (row.label, row.method.knobs()["init"]) == ('coop[init="an icon, of a"]', "an icon, of a")


@pytest.mark.parametrize("text", ["lora[rank=4,layers=q:v]", "coop[init=an icon of a]", "dra[ranks=64:8:1]", "compose"])
def test_the_row_of_a_method_reads_as_that_method(text: str) -> None:
    method = parse_row(text).method
    assert parse_row(method.row).method == method


def test_a_method_of_a_file(mine: Path) -> None:
    row = parse_row(f"{mine}:Mine[low_rank.rank=4,bottleneck.rank=8,epochs=2]")
    assert row.label.startswith(f"{mine}:Mine[")
    assert "/" not in row.slug
    knobs = row.method.knobs()
    assert (knobs["low_rank.rank"], knobs["bottleneck.rank"]) == (4, 8)
    mix = parse_row(f"{mine}:MIX[rank=5]")
    assert (mix.method.adapters, mix.recipe) == ((LowRank(rank=5),), Recipe(epochs=7))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{file}:Mine[rank=4]", "belongs to several pieces: write low_rank.rank or bottleneck.rank"),
        ("{file}:Shadow", "has a knob 'epochs', as each training has: rename that of the method"),
        ("{file}:Nope", ":NAME, where NAME is a method in it (Mine, Shadow, MIX)"),
        ("{file}", ":NAME, where NAME is a method in it"),
        ("{file}x.py:Mine", "there is no file"),
    ],
)
def test_mistakes_about_a_file(text: str, line: str, mine: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_row(text.format(file=mine))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_variants_inherit_what_was_chosen_for_the_model() -> None:
    row = parse_row("lora[rank=4]", TINY)
    assert row.recipe == TINY.choices["lora"].recipe
    assert row.config["smallest_crop"] == 0.6
    assert parse_row("lora[smallest_crop=0.3]", TINY).config["smallest_crop"] == 0.3
    assert row.settings == "for icons-small"
    assert parse_row("lora", settings_for("icons-small", "published")) == parse_row("lora")
    assert parse_row("lora", settings_for("some/other")) == parse_row("lora")
    with pytest.raises(UsageError, match="recipes are auto or published, not 'publishd'"):
        settings_for("icons-small", "publishd")


def test_every_choice_fits_its_method() -> None:
    for name, choice in TINY.choices.items():
        row = parse_row(name, TINY)
        assert row.recipe == choice.recipe
        assert row.method == get_method(name, choice.knobs)


def test_rows_may_be_separated_by_commas() -> None:
    rows = parse_rows(["zero-shot,lora[rank=4,alpha=2],full", "linear-probe"])
    assert [row.label for row in rows] == ["zero-shot", "lora[rank=4,alpha=2]", "full", "linear-probe"]
    assert [row.method.learns for row in rows] == [False, True, True, True]


def test_a_file_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text('# a table\nzero-shot\n\nlora[rank=4, epochs=5]  # more rank\ncoop[init="number # one"]\n')
    labels = ["zero-shot", "lora[rank=4,epochs=5]", 'coop[init="number # one"]', "full"]
    assert [row.label for row in parse_rows([f"@{file}", "full"])] == labels
    file.write_text("zero-shot\n\nlora[rnak=4]\n")
    with pytest.raises(UsageError, match=re.escape(f"{file}, line 3: row 'lora[rnak=4]': 'rnak' is neither")):
        parse_rows([f"@{file}"])
    with pytest.raises(UsageError, match=r"the file of rows .*nowhere\.txt cannot be read: No such file"):
        parse_rows([f"@{tmp_path}/nowhere.txt"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no method was given"),
        (["lroa"], "unknown method 'lroa'. Did you mean 'lora'?"),
        (["lora[rnak=4]"], "'rnak' is neither a knob of lora nor a setting of its training. Did you mean 'rank'?"),
        (["full[lerning_rate=1]"], "Did you mean 'learning_rate'?"),
        (["lora[low_rank.rnak=4]"], "has no knob 'low_rank.rnak'"),
        (["full[seed=3]"], "'seed' is neither"),
        (["lora[rank]"], "'rank' must be key=value"),
        (["lora[rank=]"], "'rank=' must be key=value"),
        (["lora[rank=4"], "must be a method, or method[key=value,key=value]"),
        (["lora[rank=4]x"], "must be a method, or method[key=value,key=value]"),
        (["compose[adapters=LowRank(]"], "brackets and quotes in pairs"),
        (['coop[init="an icon]'], "brackets and quotes in pairs"),
        (["compose[adapters=LowRnak()]"], "there is no piece 'LowRnak'. Did you mean 'LowRank'?"),
        (["lora[rank=four]"], "must be a whole number"),
        (["lora[rank=0]"], "must be at least 1"),
        (["lora[rank=4,rank=5]"], "'rank' is given twice"),
        (["lora[layers=q:z]"], "must be"),
        (["full[epochs=3,steps=4]"], "exactly one of steps, steps_per_shot and epochs"),
        (["full[epochs=none]"], "exactly one of steps, steps_per_shot and epochs"),
        (["full[learning_rate=-1]"], "learning_rate=-1.0 must be 0 or more"),
        (["full[momentum=1]"], "momentum=1.0 must be from 0 to below 1"),
        (["full[views=-1]"], "views=-1 must be 0 or more"),
        (["full[smallest_crop=2]"], "smallest_crop=2.0 must be a share"),
        (["zero-shot[epochs=3]"], "nothing is trained by gradient steps, epochs changes nothing"),
        (["zero-shot[cutout=0.5]"], "nothing is trained by gradient steps, cutout changes nothing"),
        (["lora", "full", "lora"], "row 'lora' is given twice"),
        (["lora", "lora[rank=2]"], "row 'lora[rank=2]' is the same training as 'lora'"),
    ],
)
def test_mistakes(words: list[str], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rows(words)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
