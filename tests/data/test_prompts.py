from __future__ import annotations

import pytest

from steadyclip.data.prompts import doubtful_names


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["0", "1", "cat"], "look like numbers or ids: 2 of 3, for instance '0'"),
        (["n01440764", "n01443537"], "look like numbers or ids: 2 of 2, for instance 'n01440764'"),
        (["001.Albatross", "002.Auklet"], "begin with a number: 2 of 2, for instance '001.Albatross'"),
        (["class cat", "class dog"], "all class names begin with 'class'"),
        (["mp3 player", "mp3-player", "tv"], "hardly differ: 'mp3 player', 'mp3-player'"),
        (["café", "cafe"], "hardly differ: 'café', 'cafe'"),
        (["cat", "cats"], "hardly differ: 'cat', 'cats'"),
    ],
)
def test_names_that_tell_little(classes: list[str], said: str) -> None:
    (line,) = doubtful_names(classes)
    assert said in line


def test_good_names() -> None:
    assert not list(doubtful_names(["cat", "Boeing 747", "7up bottle", "golden retriever", "golden eagle"]))
