"""The table of an experiment from its records: which records belong together, means over seeds, H, differences."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from steadyclip.core.errors import DataError
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import HALVES, MEANS, Cell, Row, Section, Table, grouped
from steadyclip.report.published import beside
from steadyclip.training.config import DECIDES

ROLES = ("id", "ood", "transfer")
MISSING = "no record of this evaluation was given."


def main_table(records: Iterable[Record], *, baseline: str = "zero-shot") -> Table:
    """One row for each method, with the columns base, new and H, or one for each domain where all classes were scored.

    Records of a grid, which know the role of their test images, also make few-shot curves (a column for each number of
    shots) and tables of transfer (a column for each test set of one training, and means over domains and data sets).

    Means and sample standard deviations over seeds; H of a data set is the harmonic mean of its two means (the protocol
    of base-to-new evaluation). With several data sets a section of averages is added, with both ways to average H.

    Args:
        records: in the order in which rows and sections shall appear; the baseline goes first.
        baseline: name of the method that differences are taken to.

    Raises:
        DataError: there is no record.
    """
    records = list(records)
    if not records:
        raise DataError("a table needs at least one record: `steadyclip evaluate` writes them.")
    records, notes = _newest(_with_roles(records))
    by_model = grouped(records, lambda r: r.model.weights_hash)
    sections: list[Section] = []
    for of_model in by_model.values():
        suffix = f", model {of_model[0].model.name}" if len(by_model) > 1 else ""
        halves = [r for r in of_model if r.data.subset in HALVES]
        others = [r for r in of_model if r.data.subset not in HALVES]
        pairs = grouped(halves, lambda r: (r.data.name, r.data.domain))
        names = [name for name, _ in pairs]
        found = []
        for (name, domain), group in pairs.items():
            where = f", {domain}" if names.count(name) > 1 and domain else ""
            found.append(_base_to_new(group, f"{name}, base to new{where}{suffix}", baseline))
        if len(set(names)) == len(names) > 1:
            found.append(_average(found, suffix, baseline))
        curves = _curves([r for r in others if r.role == "id" and r.wise_alpha is None], suffix, baseline)
        transfers = _transfers([r for r in others if r.role], suffix, baseline)
        shown = {id(r) for section in (*curves, *transfers) for row in section.rows for r in row.records}
        others = [r for r in others if id(r) not in shown]
        found += curves + transfers
        for (name, subset), group in grouped(others, lambda r: (r.data.name, r.data.subset)).items():
            found.append(_per_domain(group, f"{name}, {subset} classes{suffix}", baseline))
        sections += found
    for section in sections:
        notes += _warnings(section)
    sections = [beside(section) for section in sections]
    notes += [section.published for section in sections if section.published]
    return Table(tuple(sections), tuple(dict.fromkeys(notes)))


def _with_roles(records: Sequence[Record]) -> list[Record]:
    """Averages of weights (WiSE-FT) are scored outside a grid: they have the roles that its records tell."""
    roles = {(_home(r), _test(r)): r.role for r in records if r.role}
    return [
        dataclasses.replace(r, role=roles.get((_home(r), _test(r)), "")) if r.wise_alpha is not None else r
        for r in records
    ]


def _home(record: Record) -> str:
    """The data set of the training."""
    return str(training_part(record, "task").get("name"))


def _base_to_new(records: Sequence[Record], title: str, baseline: str) -> Section:
    def cells(group: Sequence[Record]) -> tuple[Cell, ...]:
        base, new = (_over_seeds([r for r in group if r.data.subset == half]) for half in HALVES)
        return base, new, _h(base, new)

    return _section(records, title, (*HALVES, "H"), cells, baseline)


def _per_domain(records: Sequence[Record], title: str, baseline: str) -> Section:
    domains = list(dict.fromkeys(r.data.domain for r in records))

    def cells(group: Sequence[Record]) -> tuple[Cell, ...]:
        return tuple(_over_seeds([r for r in group if r.data.domain == domain]) for domain in domains)

    return _section(records, title, tuple(domain or "top-1" for domain in domains), cells, baseline)


def _curves(records: Sequence[Record], suffix: str, baseline: str) -> list[Section]:
    """One section for each test set that several numbers of shots were scored on."""
    sections = []
    for (name, *_), group in grouped(records, _test).items():
        shots = sorted({r.shots for r in group if r.shots is not None})
        if len(shots) < 2:
            continue

        def cells(group: Sequence[Record], shots: Sequence[int] = shots) -> tuple[Cell, ...]:
            # what learns nothing is the same with any number of shots
            return tuple(_over_seeds([r for r in group if r.shots in (k, None)]) for k in shots)

        group = [r for r in group if r.shots is not None or r.training is None]
        columns = tuple(_count(k, "shot") for k in shots)
        section = _section(group, f"{name}, few-shot{suffix}", columns, cells, baseline, by_shots=False)
        sections.append(dataclasses.replace(section, shots=tuple(shots)))
    return sections


def _transfers(records: Sequence[Record], suffix: str, baseline: str) -> list[Section]:
    """One section for each training whose result was scored on other domains or other data."""
    untrained = [r for r in records if r.training is None]
    trainings = grouped([r for r in records if r.training is not None], lambda r: (_home(r), r.shots))
    if not trainings:
        home = next((r.data.name for r in records if r.role == "id"), "")
        trainings = {(home, None): []}
    sections = []
    for (source, shots), group in trainings.items():
        sets = set(map(_test, group or untrained))
        group = [*(r for r in untrained if _test(r) in sets), *group]
        tests = sorted(grouped(group, _test).values(), key=lambda of: ROLES.index(of[0].role))
        if any(of[0].role != "id" for of in tests):
            several = sum(home == source for home, _ in trainings) > 1
            part = f", {_count(shots, 'shot') if shots else 'all training images'}" if several else ""
            sections.append(_transfer(group, [of[0] for of in tests], source, part + suffix, baseline))
    return sections


def _transfer(records: Sequence[Record], tests: Sequence[Record], source: str, suffix: str, baseline: str) -> Section:
    """``tests`` holds one record of each test set, in the order of the columns."""
    roles = {test.role for test in tests}
    inside = any(test.role == "ood" and test.data.name == source for test in tests)
    parts: list[tuple[str, list[Hashable]]] = []
    for role in ROLES:
        chosen = [test for test in tests if test.role == role]
        for test in chosen:
            domain = test.data.domain if inside and test.data.name == source else None
            parts.append((domain or test.data.name, [_test(test)]))
        if role != "id" and len(chosen) > 1:
            parts.append((MEANS[role], [_test(test) for test in chosen]))

    def cells(group: Sequence[Record]) -> tuple[Cell, ...]:
        return tuple(
            _over_sets(group, sets) if len(sets) > 1 else _over_seeds(_on(group, sets[0])) for _, sets in parts
        )

    where = {"ood": "other domains", "transfer": "other data"}
    title = f"{source} to {' and '.join(text for role, text in where.items() if role in roles)}{suffix}"
    return _section(records, title, tuple(name for name, _ in parts), cells, baseline)


def _on(records: Sequence[Record], test: Hashable) -> list[Record]:
    return [r for r in records if _test(r) == test]


def _over_sets(records: Sequence[Record], sets: Sequence[Hashable]) -> Cell:
    """The mean over test sets; its spread is that of the means of each seed."""
    cell = _mean_cell([_over_seeds(_on(records, test)) for test in sets], len(sets))
    of_seed = grouped([r for r in records if _test(r) in sets and r.metrics is not None], lambda r: r.seed)
    means = [statistics.fmean(100 * r.metrics.top1 for r in group if r.metrics) for group in of_seed.values()]
    if cell.value is None or len(means) < 2 or any(len(group) != len(sets) for group in of_seed.values()):
        return cell
    return dataclasses.replace(cell, spread=statistics.stdev(means))


def _test(r: Record) -> tuple[str, str, str | None, tuple[str, ...]]:
    """What was scored: images, names and prompts."""
    return r.data.name, r.data.subset, r.data.domain, r.data.templates


def _section(
    records: Sequence[Record],
    title: str,
    columns: tuple[str, ...],
    cells: Callable[[Sequence[Record]], tuple[Cell, ...]],
    baseline: str,
    by_shots: bool = True,
) -> Section:
    rows = [Row(label, cells(group), tuple(group)) for label, group in _rows(records, by_shots).items()]
    return _compare(Section(title, _caption(records), columns, tuple(rows), None), baseline)


def _average(sections: Sequence[Section], suffix: str, baseline: str) -> Section:
    """Unweighted means over data sets. H both ways, since published tables use either."""
    labels = dict.fromkeys(row.label for section in sections for row in section.rows)
    rows = []
    for label in labels:
        found = [row for section in sections for row in section.rows if row.label == label]
        base, new, h = (_mean_cell([row.cells[i] for row in found], len(sections)) for i in range(3))
        rows.append(Row(label, (base, new, _h(base, new), h), tuple(r for row in found for r in row.records)))
    columns = (*HALVES, "H of averages", "mean of Hs")
    caption = f"unweighted mean over {len(sections)} data sets"
    return _compare(Section(f"average, base to new{suffix}", caption, columns, tuple(rows), None), baseline)


def _mean_cell(cells: Sequence[Cell], wanted: int) -> Cell:
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < wanted:
        reasons = [cell.reason for cell in cells if cell.reason]
        return Cell(reason=reasons[0] if reasons else MISSING)
    margins = [cell.margin for cell in cells if cell.margin is not None]
    margin = math.hypot(*margins) / wanted if len(margins) == wanted else None
    return Cell(value=statistics.fmean(values), margin=margin, seeds=min(cell.seeds for cell in cells))


def _over_seeds(records: Sequence[Record]) -> Cell:
    scored = [r.metrics for r in records if r.metrics is not None]
    if not scored:
        return Cell(reason=records[0].reason if records else MISSING)
    values = [100 * m.top1 for m in scored]
    return Cell(
        value=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else None,
        margin=statistics.fmean(50 * (m.interval95[1] - m.interval95[0]) for m in scored),
        seeds=len(scored),
    )


def _h(base: Cell, new: Cell) -> Cell:
    if base.value is None or new.value is None:
        return Cell(reason=base.reason or new.reason)
    b, n = base.value, new.value
    margin = None
    if base.margin is not None and new.margin is not None and b + n:  # to first order
        margin = math.hypot(base.margin * n**2, new.margin * b**2) * 2 / (b + n) ** 2
    return Cell(value=statistics.harmonic_mean((b, n)), margin=margin, seeds=min(base.seeds, new.seeds))


def _compare(section: Section, baseline: str) -> Section:
    """The section with the baseline first and curves of averages last, differences to the baseline, and the best of
    each column marked."""
    order = list(dict.fromkeys(row.series for row in section.rows))

    def place(row: Row) -> tuple[bool, bool, int, float]:
        curve = row.alpha is not None
        first = row.records[0].method.name != baseline
        return first, curve, order.index(row.series) if curve else 0, row.alpha or 0.0

    rows = sorted(section.rows, key=place)
    first = rows[0] if rows[0].records[0].method.name == baseline else None
    tops = [
        max((cell.value for cell in column if cell.value is not None), default=0.0)
        for column in zip(*(row.cells for row in rows), strict=True)
    ]

    def compared(row: Row) -> Row:
        cells = list(row.cells)
        for i, cell in enumerate(cells):
            if cell.value is not None:
                origin = first.cells[i] if first and row is not first else Cell()
                delta = cell.value - origin.value if origin.value is not None else None
                clear = delta is not None and abs(delta) > max(origin.margin or 0.0, cell.spread or 0.0)
                best = len(rows) > 1 and round(cell.value, 1) == round(tops[i], 1)
                cells[i] = dataclasses.replace(cell, delta=delta, clear=clear, best=best)
        return dataclasses.replace(row, cells=tuple(cells))

    rows = [compared(row) for row in rows]
    return dataclasses.replace(section, rows=tuple(rows), baseline=rows[0] if first else None)


def _rows(records: Sequence[Record], by_shots: bool = True) -> dict[str, list[Record]]:
    """Records by row label: the method's label, and whatever else tells trainings apart other than the seed."""
    rows: dict[str, list[Record]] = {}
    all_shots = {r.shots for r in records if r.shots is not None}
    for label, group in grouped(records, lambda r: r.method.label).items():
        trainings = [_training(r) for r in group]
        differing = [name for name in _union(trainings) if len({json.dumps(t.get(name)) for t in trainings}) > 1]
        for record, training in zip(group, trainings, strict=True):
            extra = [f"{name.replace('_', ' ')} {training.get(name)}" for name in differing]
            if by_shots and len(all_shots) > 1 and record.shots is not None:
                extra.insert(0, _count(record.shots, "shot"))
            rows.setdefault(", ".join([label, *extra]), []).append(record)
    return rows


def _training(record: Record) -> dict[str, Any]:
    """What decides the result of a training beside method, shots and seed: recipe, arithmetic, data."""
    config, task = training_part(record, "config"), training_part(record, "task")
    settings = dict(training_part(record, "recipe"))
    settings |= {name: config[name] for name in DECIDES if name in config and name != "seed"}
    if task:
        settings["trained on"] = f"{task.get('name')}, {task.get('subset')} classes"
    return settings


def training_part(record: Record, name: str) -> dict[str, Any]:
    """One part of the run that a record carries, empty where it has none."""
    part = (record.training or {}).get(name)
    return part if isinstance(part, dict) else {}


def _union(settings: Iterable[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for each in settings for name in each))


def _newest(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Of several evaluations of one run on one test set, the newest; said where the others had other numbers."""

    def same(r: Record) -> Hashable:
        run = (r.model.weights_hash, r.method.label, r.shots, r.seed, json.dumps(_training(r), sort_keys=True))
        return run, _test(r)

    kept, older = [], 0
    for group in grouped(records, same).values():
        newest = max(group, key=lambda r: r.created)
        kept.append(newest)
        older += sum(r.metrics != newest.metrics for r in group)
    return kept, [f"{_count(older, 'older evaluation')} of the same run and test set left out."] if older else []


def _caption(records: Sequence[Record]) -> str:
    shots = sorted({r.shots for r in records if r.shots is not None})
    seeds = sorted({r.seed for r in records if r.seed is not None})
    parts = [f"{', '.join(map(str, shots))} shot{_s(shots[-1])}"] if shots else []
    if any(r.role and r.training is not None and r.shots is None for r in records):
        parts.append("all training images")
    parts += [f"seed{_s(len(seeds))} {', '.join(map(str, seeds))}"] if seeds else []
    precisions = {r.precision for r in records}
    parts += [f"scored in {' and '.join(sorted(precisions))}"] if precisions != {"fp32"} else []
    names = test_names(records)
    counts = {}
    for test, group in grouped(records, lambda r: (r.data.name, r.data.subset, r.data.domain)).items():
        counts[names[test]] = " or ".join(str(n) for n in sorted({r.data.images for r in group}))
    if len(set(counts.values())) == 1 < len(counts):
        images = [f"{counts.popitem()[1]} images in each test set"]
    else:
        images = [f"{count} {name} images" for name, count in counts.items()]
    return "; ".join([*parts, ", ".join(images)])


def test_names(records: Iterable[Record]) -> dict[tuple[str, str, str | None], str]:
    """(data set, subset, domain) -> as few words as tell them apart."""
    tests = dict.fromkeys((r.data.name, r.data.subset, r.data.domain) for r in records)
    sets = grouped(tests, lambda test: test[0])
    names = {}
    for test in tests:
        data, subset, domain = test
        part = subset if subset in HALVES else domain or "test"
        names[test] = part if len(sets) == 1 else data if len(sets[data]) == 1 else f"{data} {part}"
    return names


def _warnings(section: Section) -> list[str]:
    """What makes numbers of the section less comparable than they look."""
    notes = []
    records = [r for row in section.rows for r in row.records]
    sets = grouped(records, lambda r: (r.data.name, r.data.subset, r.data.domain))
    for (name, subset, domain), group in sets.items():
        what = ", ".join(part for part in (name, subset, domain) if part)
        if len({r.data.hash for r in group}) > 1:
            notes.append(
                f"{what}: not all records were scored on the same test images; differences may come from that."
            )
        if len({r.data.templates for r in group}) > 1:
            notes.append(f"{what}: the records do not use the same templates.")
        if len({r.precision for r in group}) > 1:
            notes.append(f"{what}: not all records were scored in the same precision.")
        skipped = max(len(r.data.skipped) for r in group)
        if skipped:
            notes.append(f"{what}: {_count(skipped, 'unreadable test image')} left out.")
        notes += [f"{what}: {text}" for text in dict.fromkeys(r.note for r in group if r.note)]
    for row in section.rows:
        seeds = {cell.seeds for cell in row.cells if cell.value is not None}
        if len(seeds) > 1:
            notes.append(f"{section.title}, {row.label}: columns come from {min(seeds)} to {max(seeds)} seeds.")
    return notes


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{_s(number)}"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
