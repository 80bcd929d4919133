"""The verdict: right where there is something to say, and silent where there is only chance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from msgspec.structs import replace

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.evaluation.records import Record
from steadyclip.report import Verdict, main_table, need_verdict, verdict, write_page

Make = Callable[..., Record]


def share(right: int, images: int, shift: int = 0) -> np.ndarray:
    """``right`` of ``images`` are right, beginning at ``shift``."""
    answers = np.zeros(images, bool)
    answers[:right] = True
    return np.roll(answers, shift)


@pytest.fixture
def judge(make: Make) -> Callable[..., Verdict]:
    def judged(
        own: tuple[np.ndarray, np.ndarray],
        rest: tuple[np.ndarray, np.ndarray] | None = None,
        drift: tuple[float, float] | None = (0.1, 0.1),
    ) -> Verdict:
        """``own`` and ``rest``: which images the frozen model and the run named right."""
        records = [make(subset="all", correct=own[0])]
        records.append(make("lora", "all", seed=1, shots=16, correct=own[1], drift=drift))
        if rest:
            other = {"name": "lab-food", "role": "transfer", "data_hash": "food"}
            records.append(make(subset="all", correct=rest[0], **other))
            records.append(make("lora", "all", seed=1, shots=16, correct=rest[1], drift=drift, **other))
        return need_verdict(records)

    return judged


def test_a_clear_gain_without_a_loss(judge) -> None:
    found = judge((share(43, 60), share(53, 60)), (share(600, 1056), share(590, 1056, shift=20)))
    assert (found.own.outcome, found.rest.outcome) == ("better", "not told apart")
    own, rest, what = found.sentences
    assert own.startswith("On your 60 test images: 71.7 → 88.3 % (+16.7, 95 % interval +6.")
    assert own.endswith("): better.")
    assert "lab-food (1056 images): 56.8 → 55.9 % (\N{MINUS SIGN}0.9" in rest
    assert rest.endswith("no loss that these images can show.")
    assert what == "Use it."


def test_a_gain_with_a_cost(judge) -> None:
    found = judge((share(40, 60), share(55, 60)), (share(600, 1000), share(500, 1000)))
    assert (found.own.outcome, found.rest.outcome) == ("better", "worse")
    assert found.sentences[1].endswith("that is the cost.")
    assert found.sentences[2].startswith("Use it only where nothing but these 3 classes is asked for")


def test_chance_is_not_praised(judge) -> None:
    for gained in (0, 1, 3):  # of 20 images: up to 15 points, and yet nothing
        found = judge((share(10, 20), share(10 + gained, 20)))
        assert found.own.outcome == "not told apart"
        assert "nothing was learned that these images can show" in found.sentences[0]
        assert "give more images: 20 test images cannot show a change below about" in found.sentences[2]
        assert "give steadyclip evaluate other data with --rest" in found.sentences[1]


def test_nothing_was_learned(judge) -> None:
    found = judge((share(30, 60), share(30, 60)), drift=(0.0001, 0.0002))
    assert found.unmoved
    assert "nothing was learned, the features are still those of the frozen model (mean cosine 0.9999" in found.text
    assert "train longer or with a larger learning rate" in found.sentences[2]


def test_worse_or_at_the_ceiling(judge) -> None:
    assert judge((share(50, 60), share(30, 60))).sentences[2].startswith("Do not use it")
    nothing = judge((share(30, 60), share(31, 60)), (share(500, 600), share(400, 600)))
    assert nothing.sentences[2].startswith("Do not use it: it costs something on the rest")
    full = judge((share(199, 200), share(200, 200)))
    assert full.sentences[2] == ("Keep the frozen model: it names 99.5 % of them right, and there is little to gain.")


def test_base_and_new_of_one_run(make: Make) -> None:
    records = []
    for half, before, after in (("base", 300, 360), ("new", 300, 295)):
        facts = {"data_hash": half}
        records += [make(subset=half, correct=share(before, 500), **facts)]
        records += [make("lora", half, seed=1, shots=16, correct=share(after, 500), **facts)]
    found = need_verdict(records)
    assert found.sentences[0].startswith("On your 500 test images: 60.0 → 72.0 %")
    assert found.sentences[1].startswith("On 3 classes that were not trained on (500 images): 60.0 → 59.0 %")


def test_a_head_that_cannot_name_the_rest(make: Make) -> None:
    records = [make(subset="all", correct=share(30, 60)), make("probe", "all", seed=1, correct=share(55, 60))]
    other = {"name": "lab-food", "role": "transfer", "data_hash": "food"}
    found = need_verdict([*records, make(subset="all", **other), make("probe", "all", None, seed=1, **other)])
    assert found.sentences[1] == (
        "On the rest it cannot be used: a linear probe knows no names: 20 of 20 classes were not trained on."
    )
    assert found.sentences[2] == "Use it for the classes that it was trained on."


def test_without_the_rest_a_head_of_its_own_names_asks_for_none(make: Make) -> None:
    probe = make("probe", "all", seed=1, correct=share(55, 60))
    assert probe.training
    training = replace(probe.training, method=replace(probe.training.method, own_classes=True))
    found = need_verdict([make(subset="all", correct=share(30, 60)), replace(probe, training=training)])
    assert found.sentences[1] == "On the rest it cannot be used: it knows no names but those that it was trained on."
    assert found.sentences[2] == "Use it for the classes that it was trained on."


def test_what_is_required(judge) -> None:
    good = judge((share(40, 60), share(55, 60)), (share(6000, 10000), share(5990, 10000)))
    good.require(True, 2.0)
    good.require(False, None)
    few = judge((share(40, 60), share(42, 60)), (share(60, 100), share(59, 100)))
    with pytest.raises(SteadyClipError, match="must be better on what it was trained on, and the verdict is: not told"):
        few.require(True, None)
    with pytest.raises(SteadyClipError, match="100 images cannot exclude a greater loss, give more"):
        few.require(False, 2.0)
    with pytest.raises(SteadyClipError, match="may lose 2 points on the rest, which was not measured"):
        judge((share(40, 60), share(55, 60))).require(True, 2.0)


def test_of_several_trainings_there_is_none(make: Make) -> None:
    records = [make(subset="all", correct=share(30, 60))]
    assert verdict(records) is None
    records += [make("lora", "all", seed=seed, correct=share(55, 60)) for seed in (1, 2)]
    assert verdict(records) is None
    with pytest.raises(DataError, match="a verdict needs the records of one training"):
        need_verdict(records)
    assert verdict(records[1:2]) is None  # nothing to compare with


def test_the_page_begins_with_it(make: Make, tmp_path) -> None:
    records = [make(subset="all", correct=share(30, 60)), make("lora", "all", seed=1, correct=share(55, 60))]
    text = write_page(records, tmp_path / "page.html").read_text()
    assert text.index('class="verdict better"') < text.index('id="results"')
    assert 'class="reading"' not in text  # it would say the same again
    assert "95\N{NO-BREAK SPACE}% interval" in text
    assert "with <code>--rest</code>." in text
    assert main_table(records).sections
