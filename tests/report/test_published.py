from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from steadyclip.data import catalog
from steadyclip.evaluation.records import Record
from steadyclip.experiments.rows import parse_row
from steadyclip.report import Table, main_table, write_page
from steadyclip.report.cells import Section
from steadyclip.report.published import AVERAGES, MODELS, numbers

Make = Callable[..., Record]
TEN = (
    "Caltech101", "OxfordPets", "StanfordCars", "Flowers102", "Food101", "FGVCAircraft", "SUN397", "DTD", "EuroSAT",
    "UCF101",
)  # fmt: skip
LORA = "lora[alpha=1.414]"
SHIFTS = ("ImageNet-V2", "ImageNet-R", "ImageNet-A", "ImageNet-Sketch", "ObjectNet")


@pytest.fixture
def score(make: Make) -> Callable[..., Record]:
    """A record of one of the field's data sets, with as many classes as it has."""

    def record(method: str, name: str, subset: str = "all", *, role: str = "", **more: object) -> Record:
        count = catalog.find(name).classes
        count = {"base": math.ceil(count / 2), "new": count // 2}.get(subset, count)
        classes = [f"class {i}" for i in range(count)]
        more = {"model": MODELS[0], "source": "ImageNet", **more}
        found = make(method, subset, 0.7, name=name, domain=None, classes=classes, role=role, **more)
        return structs.replace(found, method=structs.replace(found.method, name=method.partition("[")[0]))

    return record


def published(section: Section) -> dict[str, dict[str, str]]:
    return {
        row.label: {
            column: cell.published for column, cell in zip(section.columns, row.cells, strict=True) if cell.published
        }
        for row in section.rows
    }


def transfer(score: Callable[..., Record], shots: int | None, names: Sequence[tuple[str, str]]) -> Table:
    records = [score("zero-shot", name, role=role) for name, role in names]
    for method in ("flyp", "ft", "arf"):
        records += [score(method, name, role=role, seed=1, shots=shots) for name, role in names]
    return main_table(records)


def halves(score: Callable[..., Record], names: Sequence[str], shots: int = 16, **more: object) -> Table:
    records = []
    for name in names:
        for half in ("base", "new"):
            records += [score("zero-shot", name, half, **more), score(LORA, name, half, seed=1, shots=shots, **more)]
            records += [score("dra", name, half, seed=1, shots=shots, **more)]
    return main_table(records)


def test_few_shots(score: Callable[..., Record]) -> None:
    rows = (LORA, "tip-adapter-f[smallest_crop=0.5]", "coop")
    records = [
        score(method, name, role="id", seed=1, shots=shots)
        for name in ("ImageNet", *TEN) for method in rows for shots in (1, 2, 16)
    ]  # fmt: skip
    *each, average = main_table(records).sections
    assert len(each) == 11
    assert [published(section) for section in each] == [{row: {} for row in rows}] * 11
    assert published(average) == {
        LORA: {"1 shot": "72.20", "16 shots": "82.89"}, rows[1]: {"16 shots": "81.15"}, "coop": {},
    }  # fmt: skip
    *_, average = main_table([record for record in records if record.data.name != "ImageNet"]).sections
    assert published(average) == {row: {} for row in rows}


def test_base_to_new(score: Callable[..., Record], tmp_path: Path) -> None:
    table = halves(score, ["Caltech101"])
    (section,) = table.sections
    assert published(section) == {
        "zero-shot": {"base": "96.84", "new": "94.00", "H": "95.40"}, LORA: {}, "dra": {},
    }  # fmt: skip
    assert section.baseline is section.rows[0]
    assert table.notes[-1] == (
        "Caltech101, base to new, published: tables of 16-shot base-to-new results. Not run here."
    )
    assert "| method | base | published | new | published | H | published |" in table.markdown()
    assert ",96.84," in table.csv()
    assert '<td class="published">96.84</td>' in table.html()
    records = [record for row in section.rows for record in row.records]
    assert '<td class="published">96.84</td>' in write_page(records, tmp_path / "page.html").read_text()


def test_the_average_needs_all_eleven(score: Callable[..., Record]) -> None:
    *_, average = halves(score, ["ImageNet", *TEN]).sections
    assert published(average)["zero-shot"] == {"base": "69.34", "new": "74.22", "H of averages": "71.70"}
    assert published(average)[LORA] == {"base": "85.32", "new": "70.63", "H of averages": "77.28"}
    *_, average = halves(score, TEN).sections
    assert average.published == ""


def test_other_settings_have_none(score: Callable[..., Record], make: Make) -> None:
    for table in (
        halves(score, ["Caltech101"], shots=8),
        halves(score, ["Caltech101"], model="icons-small"),
        main_table([make("zero-shot", half, 0.5, name="Caltech101", model=MODELS[0]) for half in ("base", "new")]),
        main_table([make("zero-shot", half, 0.5, model=MODELS[0]) for half in ("base", "new")]),
    ):
        assert not any(section.published for section in table.sections)
        assert "published" not in table.markdown()
        assert "published" not in table.html()


def test_a_changed_method_has_none(score: Callable[..., Record], make: Make) -> None:
    records = [score(LORA, name, half, seed=1, shots=16) for name in ("ImageNet", *TEN) for half in ("base", "new")]
    changed = [
        structs.replace(r, method=structs.replace(r.method, **other))
        for other in ({"label": "lora"}, {"label": "lora[alpha=1.414,rank=4]"}, {"name": "compose"})
        for r in records
    ]
    *_, average = main_table([*records, *changed[: 2 * len(records)]]).sections
    assert [bool(found) for found in published(average).values()] == [True, False, False]
    *_, average = main_table(changed[2 * len(records) :]).sections
    assert average.published == ""


def test_cross_dataset(score: Callable[..., Record]) -> None:
    names = [("ImageNet", "id"), *((name, "transfer") for name in TEN)]
    (section,) = transfer(score, 16, names).sections
    assert published(section)["zero-shot"] == {"ImageNet": "66.72", "mean of data": "65.12"}
    (section,) = transfer(score, 16, names[:-1]).sections
    assert published(section)["zero-shot"] == {"ImageNet": "66.72"}


def test_domain_generalization(score: Callable[..., Record]) -> None:
    names = [("ImageNet", "id"), *((name, "ood") for name in SHIFTS[:-1])]
    table = transfer(score, 16, names)
    assert published(table.sections[0])["zero-shot"] == {
        "ImageNet": "66.73", "ImageNet-V2": "60.83", "ImageNet-R": "73.96", "ImageNet-A": "47.77",
        "ImageNet-Sketch": "46.15", "mean of domains": "57.18",
    }  # fmt: skip
    assert "CLIP: widely quoted, not checked against its paper" in table.notes[-1]


def test_robust_takes_one_source(score: Callable[..., Record]) -> None:
    names = [("ImageNet", "id"), *((name, "ood") for name in SHIFTS), ("DTD", "transfer")]
    table = transfer(score, None, names)
    found = published(table.sections[0])
    assert found["zero-shot"]["mean of domains"] == "58.7"
    assert found["zero-shot"]["DTD"] == "46.3"
    assert found["ft"]["ImageNet"] == "81.3"
    assert found["flyp"]["mean of domains"] == "59.5"
    assert found["arf"] == {
        "ImageNet": "82.7", "ImageNet-V2": "72.8", "ImageNet-R": "75.6", "ImageNet-A": "50.3",
        "ImageNet-Sketch": "51.8", "ObjectNet": "55.8", "mean of domains": "61.3", "DTD": "40.4",
    }  # fmt: skip
    assert table.notes[-1].endswith("published: DiVE (AAAI 2026). Not run here.")


def test_the_file_is_whole() -> None:
    names = {entry.name for entry in catalog.catalog()}
    for number in numbers():
        assert number.data in names | set(AVERAGES.values()), number
        shots = number.protocol == "few-shot"
        assert number.column in (("1", "4", "16") if shots else ("base", "new", "H", "top-1"))
        assert 0 < float(number.value) < 100
        assert number.tag in ("S", "D")
        assert number.source
        assert not number.method or parse_row(number.method).label == number.method
        assert set().union(*AVERAGES) <= names
    keys = [(n.protocol, n.data, n.column, n.name, n.source) for n in numbers()]
    assert len(keys) == len(set(keys))


def test_means_are_those_of_their_parts() -> None:
    value = {(n.protocol, n.data, n.column, n.name, n.source): float(n.value) for n in numbers()}
    checked = 0
    for (protocol, data, column, name, source), mean in value.items():
        for sets in (sets for sets, called in AVERAGES.items() if called == data):
            parts = [value.get((protocol, part, column, name, source)) for part in sets]
            if None not in parts and column != "H":  # some print the mean of Hs there
                checked += 1
                assert statistics.fmean(part for part in parts if part) == pytest.approx(mean, abs=0.15)
    assert checked > 30
    for n in numbers():
        if n.column == "H" and not n.note.startswith("as printed"):
            base, new = (value[n.protocol, n.data, half, n.name, n.source] for half in ("base", "new"))
            assert 2 * base * new / (base + new) == pytest.approx(float(n.value), abs=0.06)
