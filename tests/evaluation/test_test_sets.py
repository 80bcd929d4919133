"""Which classes are base and new to a run, also where two classes have one name."""

from __future__ import annotations

from pathlib import Path

import pytest

from steadyclip.core.errors import DataError
from steadyclip.data.images import FileStore, ImageSet
from steadyclip.data.task import ImageData
from steadyclip.evaluation.records import TaskInfo
from steadyclip.evaluation.test_sets import tests_of as class_sets


def data(*classes: str) -> ImageData:
    none = ImageSet("birds", classes, ("{}",), (), (), (), (), FileStore(Path()))
    return ImageData("birds", classes, ("{}",), (), {"train": none, "val": none, "test": none})


def run(subset: str, classes: tuple[str, ...], others: tuple[str, ...] = ()) -> TaskInfo:
    return TaskInfo("birds", subset, None, 1, "c", classes, ("{}",), 1, 1, others=others)


def shown(*args) -> list[tuple[str, list[int]]]:
    return [(test.subset, list(test.classes)) for test in class_sets(*args)]


CRANES = data("crane", "owl", "crane", "yak")


@pytest.mark.parametrize(
    ("trained", "asked", "expected"),
    [
        (None, None, [("all", [0, 1, 2, 3])]),
        (None, "new", [("new", [2, 3])]),
        (run("all", CRANES.classes), None, [("all", [0, 1, 2, 3])]),
        (run("all", CRANES.classes), "new", [("last 2 of 4", [2, 3])]),
        (run("base", ("crane", "owl"), ("crane", "yak")), None, [("base", [0, 1]), ("new", [2, 3])]),
        (run("base", ("crane", "owl"), ("crane", "yak")), "all", [("all", [0, 1, 2, 3])]),
        (run("base", ("yak", "owl"), ("crane", "crane")), "base", [("base", [3, 1])]),
        (run("new", ("crane", "yak"), ("crane", "owl")), None, [("base", [1, 2]), ("new", [0, 3])]),
        (run("base", ("crane", "ibis")), None, [("all", [0, 1, 2, 3])]),
        (run("base", CRANES.classes), None, [("base", [0, 1, 2, 3])]),
    ],
)
def test_class_sets(trained: TaskInfo | None, asked, expected) -> None:
    assert shown(CRANES, trained, asked) == expected


def test_notes_and_refusals() -> None:
    base = run("base", ("crane", "owl"), ("crane", "yak"))
    assert [test.note for test in class_sets(CRANES, base, None)] == ["", ""]
    (_, new) = class_sets(data("crane", "owl", "tern"), base, None)
    assert new.note == "1 new classes, other ones than the 2 of the data that was trained on."
    with pytest.raises(DataError, match=r"lacks 1 of the 2 classes .* instance 'owl'"):
        class_sets(data("crane", "tern"), base, "new")
    with pytest.raises(DataError, match="has no class that the run was not trained on"):
        class_sets(data("crane", "owl"), base, "new")
