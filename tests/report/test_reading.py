from __future__ import annotations

from collections.abc import Callable

from steadyclip.evaluation.records import Record
from steadyclip.report import main_table
from steadyclip.report.reading import reading

Make = Callable[..., Record]


def halves(
    make: Make, method: str, base: float, new: float | None, seed: int | None = 1, name: str = "icons"
) -> list[Record]:
    return [make(method, "base", base, seed=seed, name=name), make(method, "new", new, seed=seed, name=name)]


def test_the_experiment(experiment: list[Record]) -> None:
    text = reading(main_table(experiment))
    assert text.startswith("icons, base to new: zero-shot reaches 54.1 on base and 57.3 on new.")
    assert "linear-probe gains 20.3 points on base and has no score on new." in text
    assert "full gains 12.3 points on base and loses 8.1 points on new." in text
    assert "lora gains 16.1 points on base and shows no clear change on new (\N{MINUS SIGN}0.2)." in text
    assert "The best H is 63.0 (lora)." in text
    assert "single seed" not in text


def test_no_method_helps(make: Make) -> None:
    text = reading(main_table(halves(make, "zero-shot", 0.6, 0.6, None) + halves(make, "full", 0.7, 0.3)))
    assert "The best H is 60.0 (zero-shot): no method improves on it." in text
    assert "single seed" in text


def test_a_small_lead_is_no_lead(make: Make) -> None:
    text = reading(main_table(halves(make, "zero-shot", 0.6, 0.6, None) + halves(make, "full", 0.61, 0.61)))
    assert "full shows no clear change on base (+1.0) and on new (+1.0)." in text
    assert "The best H is 61.0 (full), no clear difference to zero-shot." in text


def test_without_a_baseline(make: Make) -> None:
    text = reading(main_table(halves(make, "full", 0.61, 0.5)))
    assert "no baseline" in text
    assert "full reaches 61.0 on base and 50.0 on new." in text


def test_many_data_sets_are_read_through_their_average(make: Make) -> None:
    records = [
        record
        for name in ("pets", "cars", "food")
        for record in halves(make, "zero-shot", 0.5, 0.5, None, name) + halves(make, "full", 0.7, 0.4, 1, name)
    ]
    text = reading(main_table(records))
    assert text.startswith("average, base to new: zero-shot reaches 50.0")
    assert "pets" not in text
    assert "The best H of averages is" in text
    assert "The best mean of Hs is" in text


def test_all_classes(make: Make) -> None:
    text = reading(main_table([make("zero-shot", "all", 0.5), make("full", "all", 0.6, seed=1)]))
    assert "icons, all classes: zero-shot reaches 50.0 on lines. full gains 10.0 points on lines." in text
    assert "best" not in text


def test_many_methods_are_counted(make: Make) -> None:
    records = halves(make, "zero-shot", 0.5, 0.5, None)
    for i in range(1, 7):
        records += halves(make, f"m{i}", 0.5 + 0.02 * i, None if i == 6 else 0.5 - 0.02 * i)
    text = reading(main_table(records))
    assert "Of 6 methods, on base 5 gain (m6 most, 12.0 points) and 1 shows no clear change (m1)." in text
    assert "on new 4 lose (m5 most, 10.0 points), 1 shows no clear change (m1) and 1 has no score (m6)." in text


def test_curves_and_transfer_are_read_at_their_ends_and_means(grid: Callable[[str], list[Record]]) -> None:
    text = reading(main_table(grid("few-shot")))
    assert "with 1 shot " in text
    assert "with 16 shots " in text
    assert "4 shots" not in text
    text = reading(main_table(grid("cross-dataset")))
    assert "on icons " in text
    assert "on the mean of data " in text
    assert "icon-food" not in text
