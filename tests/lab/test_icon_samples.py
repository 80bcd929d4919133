"""What the data sets are made of: enough images in every class, no drawing on both sides, halves that never mix."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pytest

from steadyclip_lab.drawings.captions import with_article
from steadyclip_lab.icons.captions import caption
from steadyclip_lab.icons.packs import DOWNSTREAM, PRETRAINING, Drawing, drawings
from steadyclip_lab.icons.samples import DOMAINS, TOPIC_WANTED, WANTED, WANTED_ELSEWHERE, Sample, plan
from steadyclip_lab.icons.tables import TABLES, read_table

TOPICS = [name for name in TABLES if name not in ("icons", "icon-concepts")]


@pytest.fixture(scope="module")
def icons() -> list[Sample]:
    return plan("icons")


def test_halves_never_mix() -> None:
    assert not PRETRAINING.keys() & DOWNSTREAM.keys()
    pairs = plan("pretrain")
    assert {sample.drawing.pack for sample in pairs} == set(PRETRAINING)
    seen = {sample.drawing.svg for sample in pairs}
    assert len(pairs) > 19_000
    for pack in DOWNSTREAM:
        assert not [one.key for one in drawings(pack) if one.svg in seen]
    for data_set in TABLES:
        assert {sample.drawing.pack for sample in plan(data_set)} <= set(DOWNSTREAM)


def test_train_val_and_test_share_no_drawing_in_any_style(icons: list[Sample]) -> None:
    names = defaultdict(set)
    for sample in icons:
        names[sample.split].add((sample.drawing.pack, sample.drawing.name))
    assert set(names) == {"train", "val", "test"}
    assert not names["train"] & names["test"]
    assert not names["train"] & names["val"]
    assert not names["val"] & names["test"]


def test_sixteen_shots_and_a_test_set_in_every_class_and_domain(icons: list[Sample]) -> None:
    count = Counter((sample.label, sample.split, sample.domain) for sample in icons)
    for one in read_table("icons"):
        assert count[one.name, "train", "lines"] >= WANTED["train"] >= 16
        assert count[one.name, "val", "lines"] >= WANTED["val"] >= 4
        assert count[one.name, "test", "lines"] >= WANTED["test"] >= 20
        for domain in DOMAINS:
            assert count[one.name, "test", domain] >= WANTED_ELSEWHERE, (one.name, domain)
    assert {sample.domain for sample in icons if sample.split != "test"} == {"lines"}


def test_concepts_are_learned_from_one_team_and_tested_on_the_others() -> None:
    samples = plan("icon-concepts")
    count = Counter((sample.label, sample.split, sample.domain) for sample in samples)
    for one in read_table("icon-concepts"):
        assert count[one.name, "train", "lines"] >= 16
        assert count[one.name, "val", "lines"] >= 4
        assert all(count[one.name, "test", domain] >= 4 for domain in ("solid", "emoji"))
        assert count[one.name, "test", "lines"] == 0 or count[one.name, "test", "lines"] >= 4
    assert {sample.drawing.pack for sample in samples if sample.split != "test"} == {"phosphor"}
    assert "phosphor" not in {sample.drawing.pack for sample in samples if sample.split == "test"}


@pytest.mark.parametrize("data_set", TOPICS)
def test_topic_sets_are_tests_in_lines(data_set: str) -> None:
    samples = plan(data_set)
    count = Counter(sample.label for sample in samples)
    assert {(sample.split, sample.domain) for sample in samples} == {("test", "lines")}
    assert min(count.values()) >= TOPIC_WANTED


def test_what_trains_on_icons_is_no_test_image_elsewhere_and_nothing_else_is_left_out(icons: list[Sample]) -> None:
    """Captions of `icons` name its drawings: ARF would be asked for what it was told."""
    trained = {(s.drawing.pack, s.drawing.name) for s in icons if s.split != "test"}
    for data_set in (*TOPICS, "icon-concepts"):
        shown = {(s.label, s.drawing.pack, s.drawing.name) for s in plan(data_set) if s.split == "test"}
        assert not {(pack, name) for _, pack, name in shown} & trained
        for one in read_table(data_set) if data_set in TOPICS else ():
            for pack in ("phosphor", "lucide"):
                names = {name for concept in one.concepts for name in concept.names[pack]}
                assert {(one.name, pack, name) for name in names if (pack, name) not in trained} <= shown


@pytest.mark.parametrize("data_set", [*TABLES, "pretrain"])
def test_keys_are_unique_and_the_plan_is_the_same_twice(data_set: str) -> None:
    samples = plan(data_set)
    assert len({sample.key for sample in samples}) == len(samples)
    assert plan(data_set) == samples


def test_no_two_data_sets_show_a_drawing_in_the_same_look(icons: list[Sample]) -> None:
    looks = {sample.key: sample.look for sample in icons}
    shared = [sample for sample in plan("icon-concepts") if sample.key in looks]
    assert shared
    assert all(sample.look != looks[sample.key] for sample in shared)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("apple", "an apple"),
        ("pear", "a pear"),
        ("scissors", "scissors"),
        ("glass", "a glass"),
        ("unicorn", "a unicorn"),
        ("umbrella", "an umbrella"),
        ("hourglass", "an hourglass"),
        ("4g mobile", "4g mobile"),
    ],
)
def test_article(words: str, said: str) -> None:
    assert with_article(words) == said


def test_captions_name_the_drawing_its_style_and_class() -> None:
    bold = caption(Drawing("phosphor", "bold", "airplane", ""), "aircraft")
    assert "an airplane" in bold
    assert "a bold line drawing" in bold
    assert "aircraft" in bold
    assert caption(Drawing("mdi", "filled", "account", "")) in (
        "a filled icon of an account",
        "an account, a filled icon",
    )


def test_tabler_says_its_own_tags_and_category() -> None:
    svg = "<!--\ncategory: Map\ntags: [hold, ship]\n-->\n<svg/>"
    said = caption(Drawing("tabler", "outline", "anchor", svg))
    assert {"hold", "ship", "map", "an", "anchor"} <= set(re.findall(r"\w+", said))


def test_every_sample_has_a_caption(icons: list[Sample]) -> None:
    for sample in icons:
        assert sample.drawing.text in sample.caption
        assert "*" not in sample.caption
