"""What a user types for a row, and what becomes of it."""

from __future__ import annotations

import pytest

from steadyclip.core.errors import UsageError
from steadyclip.experiments.rows import parse_row, parse_rows
from steadyclip.experiments.settings import settings_for
from steadyclip.methods import Recipe, get_method

TINY = settings_for("icons-tiny")


def test_a_plain_row_is_the_method_as_published() -> None:
    row = parse_row("lora")
    assert (row.label, row.method, row.recipe, row.config) == (
        "lora",
        get_method("lora"),
        get_method("lora").recipe,
        {},
    )
    assert row.settings == "published"


def test_keys_go_to_knobs_recipe_and_training() -> None:
    row = parse_row("lora[rank=4, layers=q:fc1, epochs=5, augment=off, learning_rate=1e-3]")
    assert row.label == "lora[rank=4,layers=q:fc1,epochs=5,augment=off,learning_rate=1e-3]"
    assert row.method.knobs()["rank"] == 4
    assert row.method.knobs()["layers"] == ("q", "fc1")
    assert row.recipe is not None
    assert (row.recipe.epochs, row.recipe.steps_per_shot, row.recipe.learning_rate) == (5.0, None, 1e-3)
    assert row.config == {"augment": False}


def test_variants_inherit_what_was_chosen_for_the_model() -> None:
    row = parse_row("lora[rank=4]", TINY)
    assert row.recipe == TINY.choices["lora"].recipe
    assert row.config["smallest_crop"] == 0.6
    assert parse_row("lora[smallest_crop=0.3]", TINY).config["smallest_crop"] == 0.3
    assert row.settings == "chosen for icons-tiny"
    assert parse_row("lora", settings_for("icons-tiny", "published")) == parse_row("lora")
    assert parse_row("lora", settings_for("some/other")) == parse_row("lora")


def test_every_choice_fits_its_method() -> None:
    for name, choice in TINY.choices.items():
        assert isinstance(parse_row(name, TINY).recipe, Recipe)
        assert get_method(name, choice.knobs)


def test_rows_may_be_separated_by_commas() -> None:
    rows = parse_rows(["zero-shot,lora[rank=4,alpha=2],full", "linear-probe"])
    assert [row.label for row in rows] == ["zero-shot", "lora[rank=4,alpha=2]", "full", "linear-probe"]
    assert [row.learns for row in rows] == [False, True, True, True]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "no method was given"),
        (["lroa"], "unknown method 'lroa'. Did you mean 'lora'?"),
        (["lora[rnak=4]"], "'rnak' is neither a knob of lora nor a setting of its training. Did you mean 'rank'?"),
        (["full[lerning_rate=1]"], "Did you mean 'learning_rate'?"),
        (["full[seed=3]"], "'seed' is neither"),
        (["lora[rank]"], "'rank' must be key=value"),
        (["lora[rank=]"], "'rank=' must be key=value"),
        (["lora[rank=4"], "must be a method, or method[key=value,key=value]"),
        (["lora[rank=4]x"], "must be a method, or method[key=value,key=value]"),
        (["lora[rank=four]"], "must be a whole number"),
        (["lora[rank=0]"], "must be at least 1"),
        (["lora[rank=4,rank=5]"], "'rank' is given twice"),
        (["lora[layers=q:z]"], "must be"),
        (["full[epochs=3,steps=4]"], "give one of steps and epochs"),
        (["full[learning_rate=-1]"], "learning_rate=-1.0 must be 0 or more"),
        (["full[smallest_crop=2]"], "smallest_crop=2.0 must be a share"),
        (["zero-shot[epochs=3]"], "nothing is trained by gradient steps, epochs changes nothing"),
        (["lora", "full", "lora"], "row 'lora' is given twice"),
        (["lora", "lora[rank=2]"], "row 'lora[rank=2]' is the same training as 'lora'"),
    ],
)
def test_mistakes(words: list[str], line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rows(words)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown_choice_of_recipes() -> None:
    with pytest.raises(UsageError, match="auto or published"):
        settings_for("icons-tiny", "best")  # pyright: ignore[reportArgumentType]
