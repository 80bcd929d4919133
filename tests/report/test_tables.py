from __future__ import annotations

import io
import statistics
from collections.abc import Callable

import pytest
from rich.console import Console

from steadyclip.errors import DataError
from steadyclip.evaluation.records import Record
from steadyclip.report import Table, main_table
from steadyclip.report.cells import Section, signed

Make = Callable[..., Record]


def rows(section: Section) -> dict[str, list[str]]:
    """Label -> the cells as they are read: value, difference, star for the best."""
    return {
        row.label: [" ".join(filter(None, (c.text, c.change, "*" if c.best else ""))) for c in row.cells]
        for row in section.rows
    }


def test_base_to_new(experiment: list[Record]) -> None:
    (section,) = main_table(experiment).sections
    assert section.columns == ("base", "new", "H")
    assert section.caption == "16 shots; seeds 1, 2, 3; 900 base images, 1100 new images"
    assert rows(section) == {
        "zero-shot": ["54.1", "57.3 *", "55.7"],
        "linear-probe": ["74.4 ± 0.7 +20.3 *", "–", "–"],  # noqa: RUF001
        "full": ["66.4 ± 0.4 +12.3", "49.2 ± 0.6 −8.1", "56.5 +0.9"],  # noqa: RUF001
        "lora": ["70.2 ± 0.6 +16.1", "57.1 ± 0.3 −0.2", "63.0 +7.3 *"],  # noqa: RUF001
    }


def test_numbers_are_the_definitions(experiment: list[Record]) -> None:
    (section,) = main_table(experiment).sections
    full = next(row for row in section.rows if row.label == "full")
    base = [r.metrics.top1 for r in full.records if r.metrics and r.data.subset == "base"]
    new = [r.metrics.top1 for r in full.records if r.metrics and r.data.subset == "new"]
    assert full.cells[0].value == pytest.approx(100 * statistics.mean(base))
    assert full.cells[0].spread == pytest.approx(100 * statistics.stdev(base))
    b, n = statistics.mean(base), statistics.mean(new)
    assert full.cells[2].value == pytest.approx(100 * 2 * b * n / (b + n))
    assert full.cells[2].seeds == 3


def test_a_difference_is_clear_beyond_interval_and_spread(make: Make) -> None:
    records = [make("zero-shot", "all", 0.5)]  # interval of 3 points to either side
    records += [make("a", "all", 0.52, seed=1), make("b", "all", 0.54, seed=1), make("c", "all", 0.46, seed=1)]
    records += [make("d", "all", top1, seed=seed) for seed, top1 in enumerate((0.45, 0.65))]
    (section,) = main_table(records).sections
    assert [row.cells[0].trend for row in section.rows] == ["", "same", "up", "down", "same"]


def test_the_baseline_goes_first(make: Make) -> None:
    (section,) = main_table([make("lora", "all", 0.6, seed=1), make("zero-shot", "all", 0.5)]).sections
    assert [row.label for row in section.rows] == ["zero-shot", "lora"]
    assert section.baseline is section.rows[0]


def test_without_a_baseline(make: Make) -> None:
    (section,) = main_table([make("lora", "all", 0.6, seed=1), make("full", "all", 0.5, seed=1)]).sections
    assert section.baseline is None
    assert rows(section) == {"lora": ["60.0 *"], "full": ["50.0"]}


def test_empty_cells_have_reasons(experiment: list[Record], make: Make) -> None:
    table = main_table([*experiment, make("half", "base", 0.6, seed=1, shots=16)])
    assert len(table.reasons) == 2
    assert "knows no names" in table.reasons[0]
    half = table.sections[0].rows[-1]
    assert table.mark(half.cells[1]) == "2"
    assert table.mark(half.cells[0]) == ""


def test_each_data_set_and_the_average(make: Make) -> None:
    records = []
    for name, (b, n, b2, n2) in {"pets": (0.8, 0.9, 0.9, 0.8), "cars": (0.4, 0.6, 0.6, 0.3)}.items():
        records += [make("zero-shot", "base", b, name=name), make("zero-shot", "new", n, name=name)]
        records += [make("full", "base", b2, name=name, seed=1), make("full", "new", n2, name=name, seed=1)]
    records += [make("one", half, 0.5, name="pets", seed=1) for half in ("base", "new")]
    pets, cars, average = main_table(records).sections
    assert (pets.title, cars.title) == ("pets, base to new", "cars, base to new")
    assert average.columns == ("base", "new", "H of averages", "mean of Hs")
    found = rows(average)
    assert found["zero-shot"] == ["60.0", "75.0 *", "66.7 *", "66.4 *"]
    assert found["full"] == ["75.0 +15.0 *", "55.0 −20.0", "63.5 −3.2", "62.4 −4.0"]  # noqa: RUF001
    assert found["one"] == ["–"] * 4  # noqa: RUF001


def test_all_classes_have_a_column_for_each_domain(make: Make) -> None:
    records = [make("zero-shot", "all", top1, domain=d) for d, top1 in (("lines", 0.5), ("emoji", 0.4))]
    records += [
        make("zero-shot", "base", 0.5),
        make("zero-shot", "new", 0.5),
        make("zero-shot", "all", 0.3, name="own", domain=None),
    ]
    pair, domains, own = main_table(records).sections
    assert pair.columns == ("base", "new", "H")
    assert (domains.title, domains.columns) == ("icons, all classes", ("lines", "emoji"))
    assert domains.caption == "1000 images in each test set"
    assert (own.title, own.columns) == ("own, all classes", ("top-1",))


def test_models_are_not_mixed(make: Make) -> None:
    one, two = make("zero-shot", "all", 0.5), make("zero-shot", "all", 0.6, weights_hash="f" * 16)
    assert len(main_table([one, two]).sections) == 2


def test_trainings_that_differ_are_rows_of_their_own(make: Make) -> None:
    records = [make("full", "all", 0.5, seed=1, shots=4), make("full", "all", 0.6, seed=1, shots=16)]
    records += [make("full", "all", 0.7, seed=1, shots=16, recipe={"learning_rate": 1.0})]
    (section,) = main_table(records).sections
    labels = [row.label for row in section.rows]
    assert labels[0].startswith("full, 4 shots, ")
    assert "learning rate 1.0" in labels[2]
    assert len(set(labels)) == 3


def test_the_newest_of_two_evaluations_counts(make: Make) -> None:
    old = make("full", "all", 0.5, seed=1, created="2026-11-20T09:00:00+00:00")
    new = make("full", "all", 0.6, seed=1, created="2026-11-20T10:00:00+00:00")
    table = main_table([new, old, new])
    assert rows(table.sections[0]) == {"full": ["60.0"]}
    assert table.notes == ("1 older evaluation of the same run and test set left out.",)


def test_notes_on_what_cannot_be_compared(make: Make) -> None:
    records = [make("zero-shot", "base", 0.5), make("zero-shot", "new", 0.5, note="its own 200 classes")]
    records += [make("full", "base", 0.6, seed=s, data_hash="0", skipped=(("a.png", "0 bytes"),)) for s in (1, 2)]
    records += [make("full", "new", 0.6, seed=1)]
    assert main_table(records).notes == (
        "icons, base, lines: not all records were scored on the same test images; differences may come from that.",
        "icons, base, lines: 1 unreadable test image left out.",
        "icons, new, lines: its own 200 classes",
        "icons, base to new, full: columns come from 1 to 2 seeds.",
    )


def test_no_records() -> None:
    with pytest.raises(DataError, match="steadyclip evaluate"):
        main_table([])


def test_signed() -> None:
    assert [signed(v) for v in (1.25, -0.06, 0.04, -0.04)] == ["+1.2", "−0.1", "±0.0", "±0.0"]  # noqa: RUF001


@pytest.fixture
def awkward(make: Make) -> Table:
    """Names that are markup somewhere."""
    name = "<b>&\"'|*_[red]x[/red]"
    return main_table([make("zero-shot", "all", 0.5, name=name), make(name, "all", None, seed=1, name=name)])


def test_rich_shows_every_number(experiment: list[Record], awkward: Table) -> None:
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(main_table(experiment))
    console.print(awkward)
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    for text in ("74.4 ± 0.7 +20.3", "49.2 ± 0.6 \N{MINUS SIGN}8.1", "[1]", "[1] a linear probe knows", "[red]x[/red]"):
        assert text in shown


def test_markdown(experiment: list[Record], awkward: Table) -> None:
    text = main_table(experiment).markdown()
    assert "| method | base | new | H |\n| --- | ---: | ---: | ---: |\n" in text
    assert "| linear-probe | **74.4 ± 0.7** (+20.3) | \N{EN DASH} [1] | \N{EN DASH} [1] |" in text
    assert "\n[1] a linear probe knows no names" in text
    rows = [line for line in awkward.markdown().splitlines() if line.startswith("|")]
    assert [line.replace("\\|", "").count("|") for line in rows] == [3] * 4
    assert r"\<b\>" in rows[-1]


def test_html(experiment: list[Record], awkward: Table) -> None:
    text = main_table(experiment).html()
    assert '<td class="best"><span class="value">74.4</span><span class="spread">± 0.7</span>' in text
    assert '<span class="change down">\N{MINUS SIGN}8.1</span>' in text
    assert "<sup>1</sup> a linear probe knows no names" in text
    assert "<b>" not in awkward.html()
    assert "&lt;b&gt;&amp;" in awkward.html()
