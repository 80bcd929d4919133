"""The table of an experiment from its records: which records belong together, means over seeds, H, differences."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec.structs import replace

from steadyclip.core.errors import DataError
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import HALVES, MEANS, Cell, Row, Section, Table, grouped
from steadyclip.report.published import beside
from steadyclip.training.run import identity

ROLES = ("id", "ood", "transfer")
PLACES = {"ood": "other domains", "transfer": "other data"}
BASELINE = "zero-shot"
"""The method that differences are taken to."""
MISSING = "no record of this evaluation was given."

_OF_A_SEED = ("config.seed", "task.seed", "task.content")
"""Facts of an identity that seeds change: a few-shot sample is drawn by its seed."""

Columns = Sequence[tuple[str, Sequence[Any]]]
"""Name of a column, and the test sets (or halves, domains, shots) that its number is the mean over."""


def main_table(records: Iterable[Record]) -> Table:
    """One row for each method, with the columns base, new and H, or one for each domain where all classes were scored.

    Records of a grid, which know the role of their test images, also make few-shot curves (a column for each number of
    shots) and tables of transfer (a column for each test set of one training, and means over domains and data sets).

    Means and sample standard deviations over seeds; H of a data set is the harmonic mean of its two means (the protocol
    of base-to-new evaluation). With several data sets a section of averages is added, with both ways to average H.

    Args:
        records: in the order in which rows and sections shall appear; the baseline goes first.

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
        for section in _sections(of_model):
            sections.append(_compare(dataclasses.replace(section, title=section.title + suffix)))
            notes += _warnings(sections[-1])
    sections = [beside(section) for section in sections]
    notes += [section.published for section in sections if section.published]
    return Table(tuple(sections), tuple(dict.fromkeys(notes)))


def _with_roles(records: Sequence[Record]) -> list[Record]:
    """Averages of weights (WiSE-FT) are scored outside a grid: they have the roles that its records tell."""
    roles = {(_home(r), _test(r)): r.role for r in records if r.role}
    return [replace(r, role=roles.get((_home(r), _test(r)), "")) if r.wise_alpha is not None else r for r in records]


def _home(record: Record) -> str:
    """The data set of the training."""
    return record.training.task.name if record.training else ""


def _test(r: Record) -> tuple[str, str, str | None, tuple[str, ...]]:
    """What was scored: images, names and prompts."""
    return r.data.name, r.data.subset, r.data.domain, r.data.templates


# ---- sections


def _sections(records: Sequence[Record]) -> list[Section]:
    """The sections of one model, rows not yet compared."""
    halves = [r for r in records if r.data.subset in HALVES]
    others = [r for r in records if r.data.subset not in HALVES]
    pairs = grouped(halves, lambda r: (r.data.name, r.data.domain))
    names = [name for name, _ in pairs]
    found = []
    for (name, domain), group in pairs.items():
        where = f", {domain}" if names.count(name) > 1 and domain else ""
        columns = [(half, [half]) for half in HALVES]
        section = _section(group, f"{name}, base to new{where}", columns, lambda r, half: r.data.subset == half)
        rows = tuple(dataclasses.replace(row, cells=(*row.cells, _h(*row.cells))) for row in section.rows)
        found.append(dataclasses.replace(section, columns=(*HALVES, "H"), rows=rows))
    if len(set(names)) == len(names) > 1:
        found.append(_average(found))
    found += _curves([r for r in others if r.role == "id" and r.wise_alpha is None])
    found += _transfers([r for r in others if r.role])
    shown = {id(r) for section in found for row in section.rows for r in row.records}
    rest = [r for r in others if id(r) not in shown]
    for (name, subset), group in grouped(rest, lambda r: (r.data.name, r.data.subset)).items():
        columns = [(domain or "top-1", [domain]) for domain in dict.fromkeys(r.data.domain for r in group)]
        found.append(_section(group, f"{name}, {subset} classes", columns, lambda r, domain: r.data.domain == domain))
    return found


def _curves(records: Sequence[Record]) -> list[Section]:
    """One section for each test set that several numbers of shots were scored on."""
    sections = []
    for (name, *_), group in grouped(records, _test).items():
        shots = sorted({r.shots for r in group if r.shots is not None})
        if len(shots) > 1:
            group = [r for r in group if r.shots is not None or r.training is None]
            columns = [(count(k, "shot"), [k]) for k in shots]
            # what learns nothing is the same with any number of shots
            section = _section(group, f"{name}, few-shot", columns, lambda r, k: r.shots in (k, None), by_shots=False)
            sections.append(dataclasses.replace(section, shots=tuple(shots)))
    return sections


def _transfers(records: Sequence[Record]) -> list[Section]:
    """One section for each training whose result was scored on other domains or other data."""
    untrained = [r for r in records if r.training is None]
    trainings = grouped([r for r in records if r.training is not None], lambda r: (_home(r), r.shots))
    if not trainings:
        trainings = {(next((r.data.name for r in records if r.role == "id"), ""), None): []}
    sections = []
    for (source, shots), group in trainings.items():
        sets = set(map(_test, group or untrained))
        group = [*(r for r in untrained if _test(r) in sets), *group]
        # one record of each test set, by role
        tests = sorted((of[0] for of in grouped(group, _test).values()), key=lambda r: ROLES.index(r.role))
        roles = grouped(tests, lambda test: test.role)
        if not set(roles) - {"id"}:
            continue
        inside = any(test.data.name == source for test in roles.get("ood", ()))
        columns = []
        for role, of_role in roles.items():
            for test in of_role:
                domain = test.data.domain if inside and test.data.name == source else None
                columns.append((domain or test.data.name, [_test(test)]))
            if role != "id" and len(of_role) > 1:
                columns.append((MEANS[role], list(map(_test, of_role))))
        where = " and ".join(PLACES[role] for role in roles if role != "id")
        several = sum(home == source for home, _ in trainings) > 1
        part = f", {count(shots, 'shot') if shots else 'all training images'}" if several else ""
        sections.append(_section(group, f"{source} to {where}{part}", columns, lambda r, test: _test(r) == test))
    return sections


def _section(
    records: Sequence[Record],
    title: str,
    columns: Columns,
    belongs: Callable[[Record, Any], bool],
    by_shots: bool = True,
) -> Section:
    """Rows of ``records``; a record counts for the values of a column that it ``belongs`` to."""
    rows = []
    for label, group in _rows(records, by_shots).items():
        found = (_over_sets([[r for r in group if belongs(r, value)] for value in values]) for _, values in columns)
        rows.append(Row(label, tuple(found), tuple(group)))
    return Section(title, _caption(records), tuple(name for name, _ in columns), tuple(rows), None)


def _average(sections: Sequence[Section]) -> Section:
    """Unweighted means over data sets. H both ways, since published tables use either."""
    rows = []
    for label, found in grouped((row for section in sections for row in section.rows), lambda row: row.label).items():
        base, new, h = (_mean_cell([row.cells[i] for row in found], len(sections)) for i in range(3))
        rows.append(Row(label, (base, new, _h(base, new), h), tuple(r for row in found for r in row.records)))
    caption = f"unweighted mean over {len(sections)} data sets"
    return Section("average, base to new", caption, (*HALVES, "H of averages", "mean of Hs"), tuple(rows), None)


# ---- cells


def _over_sets(sets: Sequence[Sequence[Record]]) -> Cell:
    """The mean over test sets, each over seeds; the spread of several is that of the means of each seed."""
    cells = [_over_seeds(records) for records in sets]
    if len(cells) == 1:
        return cells[0]
    cell = _mean_cell(cells, len(sets))
    of_seed = grouped([r for records in sets for r in records if r.metrics is not None], lambda r: r.seed).values()
    means = [statistics.fmean(100 * r.metrics.top1 for r in group if r.metrics) for group in of_seed]
    if cell.value is None or len(means) < 2 or any(len(group) != len(sets) for group in of_seed):
        return cell
    return dataclasses.replace(cell, spread=statistics.stdev(means))


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


def _mean_cell(cells: Sequence[Cell], wanted: int) -> Cell:
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < wanted:
        return Cell(reason=next((cell.reason for cell in cells if cell.reason), MISSING))
    margins = [cell.margin for cell in cells if cell.margin is not None]
    margin = math.hypot(*margins) / wanted if len(margins) == wanted else None
    return Cell(value=statistics.fmean(values), margin=margin, seeds=min(cell.seeds for cell in cells))


def _h(base: Cell, new: Cell) -> Cell:
    if base.value is None or new.value is None:
        return Cell(reason=base.reason or new.reason)
    b, n = base.value, new.value
    margin = None
    if base.margin is not None and new.margin is not None and b + n:  # to first order
        margin = math.hypot(base.margin * n**2, new.margin * b**2) * 2 / (b + n) ** 2
    return Cell(value=statistics.harmonic_mean((b, n)), margin=margin, seeds=min(base.seeds, new.seeds))


def _compare(section: Section) -> Section:
    """The section with the baseline first and curves of averages last, differences to the baseline, and the best of
    each column marked."""
    order = list(dict.fromkeys(row.series for row in section.rows))

    def place(row: Row) -> tuple[bool, bool, int, float]:
        curve = row.alpha is not None
        first = row.records[0].method.name != BASELINE
        return first, curve, order.index(row.series) if curve else 0, row.alpha or 0.0

    rows = sorted(section.rows, key=place)
    first = rows[0] if rows[0].records[0].method.name == BASELINE else None
    columns = zip(*(row.cells for row in rows), strict=True)
    tops = [max((cell.value for cell in column if cell.value is not None), default=0.0) for column in columns]

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


# ---- which records are one row


def _rows(records: Sequence[Record], by_shots: bool) -> dict[str, list[Record]]:
    """Records by row label: the method's label, and what else of their identities differs, other than by the seed."""
    rows: dict[str, list[Record]] = {}
    all_shots = {r.shots for r in records if r.shots is not None}
    for label, group in grouped(records, lambda r: r.method.label).items():
        facts = [identity(r) for r in group]
        # the same seed with other images: then these tell the trainings apart
        alike = {json.dumps({**each, "task.content": ""}) for each in facts}
        seeds = _OF_A_SEED[:2] if len(alike) < len(set(map(json.dumps, facts))) else _OF_A_SEED
        names = dict.fromkeys(name for each in facts for name in each if name not in (*seeds, "task.shots"))
        differing = [name for name in names if len({json.dumps(each.get(name)) for each in facts}) > 1]
        for record, each in zip(group, facts, strict=True):
            extra = [_spelled(record, name, each.get(name)) for name in differing]
            if by_shots and len(all_shots) > 1 and record.shots is not None:
                extra.insert(0, count(record.shots, "shot"))
            rows.setdefault(", ".join([label, *dict.fromkeys(extra)]), []).append(record)
    return rows


def _spelled(record: Record, name: str, value: Any) -> str:
    """A fact of an identity in a label."""
    if name in ("task.subset", "task.classes") and record.training:
        return f"trained on {record.training.task.name}, {record.training.task.subset} classes"
    if name == "task.templates":
        value = " ".join(value or ())
    word = {"content": "images", "templates": "prompts"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
    return f"{word.replace('_', ' ')} {value}"


def _newest(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Of several evaluations of one run on one test set, the newest; said where the others had other numbers."""
    kept, older = [], 0
    for group in grouped(records, lambda r: (r.method.label, json.dumps(identity(r)), _test(r))).values():
        newest = max(group, key=lambda r: r.created)
        kept.append(newest)
        older += sum(r.metrics != newest.metrics for r in group)
    return kept, [f"{count(older, 'older evaluation')} of the same run and test set left out."] if older else []


# ---- what is said about records


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
        images = [f"{number} {name} images" for name, number in counts.items()]
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
    for place, group in grouped(records, lambda r: (r.data.name, r.data.subset, r.data.domain)).items():
        skipped = max(len(r.data.skipped) for r in group)
        said = {
            "not all records were scored on the same test images; differences may come from that.": {
                r.data.hash for r in group
            },
            "the records do not use the same templates.": {r.data.templates for r in group},
            "not all records were scored in the same precision.": {r.precision for r in group},
        }
        lines = [text for text, values in said.items() if len(values) > 1]
        lines += [f"{count(skipped, 'unreadable test image')} left out."] if skipped else []
        lines += dict.fromkeys(r.note for r in group if r.note)
        notes += [f"{', '.join(filter(None, place))}: {line}" for line in lines]
    for row in section.rows:
        seeds = {cell.seeds for cell in row.cells if cell.value is not None}
        if len(seeds) > 1:
            notes.append(f"{section.title}, {row.label}: columns come from {min(seeds)} to {max(seeds)} seeds.")
    return notes


def count(number: int, thing: str) -> str:
    """``1 shot`` or ``2 shots``."""
    return f"{number} {thing}{_s(number)}"


def _s(number: int) -> str:
    return "" if number == 1 else "s"
