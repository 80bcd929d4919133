from __future__ import annotations

import io
import statistics
from collections.abc import Callable

import pytest
from msgspec import structs
from rich.console import Console

from steadyclip.core.errors import DataError
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
    table = main_table(records)
    pets, cars, average = table.sections
    assert [section.average for section in table.sections] == [False, False, True]
    assert table.from_the_top == (average, *table.differences, pets, cars)
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


def test_few_shot_curves(make: Make) -> None:
    records = [make("zero-shot", "all", 0.5, role="id")]
    for seed in (1, 2):
        for shots, top1 in ((1, 0.5), (4, 0.6), (16, 0.7)):
            records.append(make("lora", "all", top1 + 0.02 * seed, seed=seed, shots=shots, role="id"))
    (curve,) = main_table(records).sections
    assert (curve.title, curve.columns) == ("icons, few-shot", ("1 shot", "4 shots", "16 shots"))
    assert curve.caption == "1, 4, 16 shots; seeds 1, 2; 1000 lines images"
    assert rows(curve) == {
        "zero-shot": ["50.0"] * 3,
        "lora": ["53.0 ± 1.4 +3.0 *", "63.0 ± 1.4 +13.0 *", "73.0 ± 1.4 +23.0 *"],
    }


def transfer(make: Make, shots: int | None = 16) -> list[Record]:
    """The home test set, two other domains, two other data sets; two seeds of a method beside zero-shot."""
    where = [("icons", "lines", "id"), ("icons", "fill", "ood"), ("icons", "emoji", "ood")]
    where += [("animals", "lines", "transfer"), ("food", "lines", "transfer")]
    records = [make("zero-shot", "all", 0.4, name=name, domain=domain, role=role) for name, domain, role in where]
    for seed in (1, 2):
        for i, (name, domain, role) in enumerate(where):
            top1 = 0.3 + 0.1 * i + 0.02 * (seed if i == 2 else -seed if i == 1 else 0)
            records.append(make("full", "all", top1, seed=seed, shots=shots, name=name, domain=domain, role=role))
    return records


def test_transfer_to_domains_and_data(make: Make) -> None:
    (section,) = main_table(transfer(make)[::-1]).sections  # the order of the records does not matter to the means
    assert section.title == "icons to other domains and other data"
    assert sorted(section.columns[1:3]) == ["emoji", "fill"]
    assert (section.columns[0], section.columns[3]) == ("lines", "mean of domains")
    (section,) = main_table(transfer(make)).sections
    assert section.columns == ("lines", "fill", "emoji", "mean of domains", "animals", "food", "mean of data")
    full = section.rows[1]
    assert [round(cell.value or 0, 6) for cell in full.cells] == [30.0, 37.0, 53.0, 45.0, 60.0, 70.0, 65.0]
    # fill falls with the seed as emoji rises: the mean over domains does not move
    assert [round(cell.spread or 0, 6) for cell in full.cells[1:4]] == [1.414214, 1.414214, 0.0]
    assert section.caption.startswith("16 shots; seeds 1, 2; ")


def test_transfer_of_one_kind(make: Make) -> None:
    domains = [r for r in transfer(make) if r.role != "transfer"]
    data = [r for r in transfer(make, None) if r.role != "ood"]
    (shifted,) = main_table(domains).sections
    assert (shifted.title, shifted.columns) == ("icons to other domains", ("lines", "fill", "emoji", "mean of domains"))
    (crossed,) = main_table(data).sections
    assert (crossed.title, crossed.columns) == ("icons to other data", ("icons", "animals", "food", "mean of data"))
    assert "all training images" in crossed.caption
    (zero,) = main_table([r for r in domains if r.training is None]).sections
    assert (zero.title, len(zero.rows)) == ("icons to other domains", 1)


def test_a_folder_of_several_protocols(make: Make) -> None:
    few = [make("full", "all", 0.5, seed=1, shots=1, role="id")]
    everything = [r for r in transfer(make, None) if r.training is not None]
    halves = [make("full", half, 0.5, seed=1, shots=16) for half in ("base", "new")]
    found = main_table([*transfer(make), *few, *everything, *halves]).sections
    assert [section.title for section in found] == [
        "icons, base to new", "icons, few-shot", "icons to other domains and other data, 16 shots",
        "icons to other domains and other data, all training images",
    ]  # fmt: skip
    assert found[2].caption.startswith("16 shots")
    assert "all training images" in found[3].caption


def test_csv(experiment: list[Record]) -> None:
    lines = main_table(experiment).csv().splitlines()
    assert lines[0] == "table,method,column,mean,std,seeds,difference,margin,low,high,published,note"
    assert len(lines) == 1 + 4 * 3
    assert lines[1].startswith('"icons, base to new",zero-shot,base,54.1000,,1,,3.0000,,,,')
    assert "linear probe knows no names" in lines[5]


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


def test_the_precision_of_the_scoring_is_said(experiment: list[Record], make: Make) -> None:
    half = [structs.replace(record, precision="bf16") for record in experiment]
    (section,) = main_table(half).sections
    assert section.caption == "16 shots; seeds 1, 2, 3; scored in bf16; 900 base images, 1100 new images"
    mixed = main_table([make("zero-shot"), *half])
    assert "scored in bf16 and fp32" in mixed.sections[0].caption
    assert "icons, base, lines: not all records were scored in the same precision." in mixed.notes


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


def test_few_shots_and_all_images_are_rows_of_their_own(make: Make) -> None:
    records = [make("lora", "all", 0.5, seed=1, shots=1), make("lora", "all", 0.9, seed=1)]
    (section,) = main_table(records).sections
    assert [(row.label, row.cells[0].value) for row in section.rows] == [
        ("lora, 1 shot", 50.0), ("lora, all training images", 90.0),
    ]  # fmt: skip


def test_other_data_is_no_other_seed(make: Make) -> None:
    records = [make("lora", "all", 0.5, seed=1, shots=1), make("lora", "all", 0.9, seed=2, shots=1, source="others")]
    (section,) = main_table(records).sections
    assert len(section.rows) == 2
    assert "trained on others" in section.rows[1].label


def test_halves_of_two_data_sets_of_one_name_have_no_h(make: Make) -> None:
    base, new = make("lora", "base", 0.5, seed=1, shots=1), make("lora", "new", 0.5, seed=1, shots=1)
    one = [structs.replace(r, data=structs.replace(r.data, whole="a")) for r in (base, new)]
    assert main_table(one).sections[0].rows[0].cells[2].value == pytest.approx(50)
    two = [one[0], structs.replace(new, data=structs.replace(new.data, whole="b"))]
    cell = main_table(two).sections[0].rows[0].cells[2]
    assert (cell.value, cell.reason) == (None, "base and new are of different data sets of one name.")


def test_an_average_over_recipes_is_noted(make: Make) -> None:
    records = [
        make("lora", half, 0.5, seed=1, shots=1, name=name, recipe={"steps": steps})
        for name, steps in (("a", 4), ("b", 60))
        for half in ("base", "new")
    ]
    note = "average, base to new, lora: not all of it was trained by the same recipe and knobs."
    assert note in main_table(records).notes
