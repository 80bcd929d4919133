"""The table of an experiment from its records: which records belong together, means over seeds, H, differences."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from steadyclip.core.errors import DataError
from steadyclip.core.words import counted
from steadyclip.evaluation.records import Place, Record
from steadyclip.report.cells import BASELINE, HALVES, MEANS, Cell, Row, Section, Table, grouped, percents
from steadyclip.report.differences import differences
from steadyclip.report.published import add_published
from steadyclip.training.run import identity

_PLACES = {"id": "", "ood": "other domains", "transfer": "other data"}
_TWO_SETS = "base and new are of different data sets of one name."
_MISSING = "no record of this evaluation was given."
_OF_A_SEED = ("config.seed", "task.seed", "task.content")
"""Facts of an identity that differ between seeds: a few-shot sample is drawn by its seed."""


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
    models = grouped(records, lambda r: r.model.weights_hash).values()
    sections: list[Section] = []
    for of_model in models:
        for section in _sections(of_model):
            section.title += f", model {of_model[0].model.name}" if len(models) > 1 else ""
            _compare(section)
            add_published(section)
            notes += _warnings(section)
            sections.append(section)
    notes += [section.published for section in sections if section.published]
    apart = differences(sections)
    return Table(tuple(sections), tuple(dict.fromkeys(notes)), apart if len(models) == 1 else ())


def _with_roles(records: Sequence[Record]) -> list[Record]:
    """Averages of weights (WiSE-FT) are scored outside a grid: they get the roles of the grid's records."""
    roles = {(_source(r), r.data.test): r.role for r in records if r.role}
    return [
        replace(r, role=roles.get((_source(r), r.data.test), "")) if r.wise_alpha is not None else r for r in records
    ]


def _source(record: Record) -> str:
    """The data set of the training."""
    return record.training.task.name if record.training else ""


def _newest(records: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Of several evaluations of one run on one test set the newest, and a note if the others had other numbers."""
    kept, older, others = [], 0, 0
    for group in grouped(records, lambda r: (json.dumps(_facts(r)), r.method.label, r.data.test)).values():
        newest = max(group, key=lambda r: r.created)
        kept.append(newest)
        others += sum(r.data.hash != newest.data.hash for r in group)
        older += sum(r.data.hash == newest.data.hash and r.metrics != newest.metrics for r in group)
    notes = [f"{counted(older, 'older evaluation')} of the same run and test set left out."] if older else []
    if others:
        what = counted(others, "evaluation")
        notes.append(f"{what} of other test images under that name left out: report one alone.")
    return kept, notes


def _facts(record: Record) -> dict[str, Any]:
    """What tells rows apart: the identity, and how it was scored; a grid has its prompts in columns."""
    scored: dict[str, Any] = {"precision": record.precision}
    if not record.role:
        scored["prompts"] = list(record.data.templates)
    if record.training:
        scored["task.name"] = record.training.task.name
    return identity(record) | scored


# ---- sections


def _sections(records: Sequence[Record]) -> list[Section]:
    """The sections of one model, rows not yet compared."""
    pairs = grouped((r for r in records if r.data.subset in HALVES), lambda r: (r.data.name, r.data.domain))
    names = [name for name, _ in pairs]
    found = []
    for (name, domain), group in pairs.items():
        where = f", {domain}" if names.count(name) > 1 and domain else ""
        halves = [(half, [half]) for half in HALVES]
        section = _section(group, f"{name}, base to new{where}", halves, lambda r, half: r.data.subset == half)
        section.columns = (*HALVES, "H")
        for row in section.rows:
            of_one = len({r.data.whole for r in row.records}) == 1
            row.cells.append(_h(*row.cells) if of_one else Cell(reason=_TWO_SETS))
        found.append(section)
    if len(set(names)) == len(names) > 1:
        found.append(_average(found))
    others = [r for r in records if r.data.subset not in HALVES]
    found += _curves([r for r in others if r.role == "id" and r.wise_alpha is None])
    found += _transfers([r for r in others if r.role])
    shown = {id(r) for section in found for r in section.records}
    rest = [r for r in others if id(r) not in shown]
    for (name, subset), group in grouped(rest, lambda r: (r.data.name, r.data.subset)).items():
        columns = [(domain or "top-1", [domain]) for domain in dict.fromkeys(r.data.domain for r in group)]
        found.append(_section(group, f"{name}, {subset} classes", columns, lambda r, domain: r.data.domain == domain))
    return found


def _average(sections: Sequence[Section]) -> Section:
    """Unweighted means over data sets. H both ways, since published tables use either."""
    average = _over_data(sections, "base to new")
    for row in average.rows:
        hs = [of_data.cells[2] for section in sections for of_data in section.rows if of_data.label == row.label]
        row.cells[:] = [*row.cells[:2], _h(*row.cells[:2]), _mean(hs, len(sections))]
    average.columns = (*HALVES, "H of averages", "mean of Hs")
    return average


def _over_data(sections: Sequence[Section], what: str) -> Section:
    """Unweighted means over data sets of the columns that are of records, spread over seeds."""
    rows = []
    for label, found in grouped((row for section in sections for row in section.rows), lambda row: row.label).items():
        records = [r for row in found for r in row.records]
        of_data = list(grouped(records, lambda r: r.data.name).values())
        of_data += [[]] * (len(sections) - len(of_data))
        cells = [_cell([[r for r in of if belongs(r)] for of in of_data]) for belongs in sections[0].belongs]
        rows.append(Row(label, cells, records))
    first, caption = sections[0], f"unweighted mean over {len(sections)} data sets"
    return Section(f"average, {what}", caption, first.columns, rows, first.shots, first.belongs, average=True)


def _curves(records: Sequence[Record]) -> list[Section]:
    """One section for each test set that several numbers of shots were scored on."""
    sections = []
    for ((name, *_), _), group in grouped(records, lambda r: r.data.test).items():
        shots = tuple(_distinct(r.shots for r in group))
        if len(shots) > 1:
            group = [r for r in group if r.shots is not None or r.training is None]
            columns = [(counted(k, "shot"), [k]) for k in shots]
            # what learns nothing is the same with any number of shots
            sections.append(_section(group, f"{name}, few-shot", columns, lambda r, k: r.shots in (k, None), shots))
    if len(sections) > 1 and len({section.shots for section in sections}) == 1:
        sections.append(_over_data(sections, "few-shot"))
    return sections


def _transfers(records: Sequence[Record]) -> list[Section]:
    """One section for each training whose result was scored on other domains or other data."""
    untrained = [r for r in records if r.training is None]
    trainings = grouped((r for r in records if r.training is not None), lambda r: (_source(r), r.shots))
    if not trainings:
        trainings = {(next((r.data.name for r in records if r.role == "id"), ""), None): []}
    sections = []
    for (source, shots), group in trainings.items():
        sets = {r.data.test for r in group or untrained}
        group = [*(r for r in untrained if r.data.test in sets), *group]
        tests = [of[0] for of in grouped(group, lambda r: r.data.test).values()]
        roles = {role: of for role in _PLACES if (of := [r.data for r in tests if r.role == role])}
        where = " and ".join(_PLACES[role] for role in roles if role != "id")
        if not where:
            continue
        inside = any(test.name == source for test in roles.get("ood", ()))
        columns = []
        for role, of_role in roles.items():
            for test in of_role:
                domain = test.domain if inside and test.name == source else None
                columns.append((domain or test.name, [test.test]))
            if role != "id" and len(of_role) > 1:
                columns.append((MEANS[role], [test.test for test in of_role]))
        several = sum(of == source for of, _ in trainings) > 1
        part = f", {counted(shots, 'shot') if shots else 'all training images'}" if several else ""
        sections.append(_section(group, f"{source} to {where}{part}", columns, lambda r, test: r.data.test == test))
    return sections


def _section(
    records: Sequence[Record],
    title: str,
    columns: Sequence[tuple[str, Sequence[Any]]],
    belongs: Callable[[Record, Any], bool],
    shots: tuple[int, ...] = (),
) -> Section:
    """Rows of ``records``. ``columns`` are names and the test sets (or halves, domains, shots) that a number is the
    mean over; a record counts for those that it ``belongs`` to."""
    rows = []
    for label, group in _rows(records, by_shots=not shots).items():
        cells = [_cell([[r for r in group if belongs(r, value)] for value in values]) for _, values in columns]
        rows.append(Row(label, cells, group))
    counts = tuple(partial(_any, belongs, values) for _, values in columns)
    return Section(title, _caption(records), tuple(name for name, _ in columns), rows, shots, counts)


def _any(belongs: Callable[[Record, Any], bool], values: Sequence[Any], record: Record) -> bool:
    return any(belongs(record, value) for value in values)


# ---- cells


def _cell(sets: Sequence[Sequence[Record]]) -> Cell:
    """The mean over test sets, each over seeds; the spread is that of the means of each seed."""
    cell = _mean([_over_seeds(records) for records in sets], len(sets))
    scored = (each for records in sets for each in percents(records))
    runs = grouped(scored, lambda each: (each[0].seed, each[0].training and each[0].training.task.seed)).values()
    if cell.value is not None and len(runs) > 1 and all(len(run) == len(sets) for run in runs):
        cell.spread = statistics.stdev(statistics.fmean(top1 for _, top1 in run) for run in runs)
    return cell


def _over_seeds(records: Sequence[Record]) -> Cell:
    scored = [r.metrics for r in records if r.metrics is not None]
    if not scored:
        return Cell(reason=records[0].reason if records else _MISSING)
    margin = statistics.fmean(50 * (m.interval95[1] - m.interval95[0]) for m in scored)
    return Cell(statistics.fmean(100 * m.top1 for m in scored), margin=margin, seeds=len(scored))


def _mean(cells: Sequence[Cell], wanted: int) -> Cell:
    values = [cell.value for cell in cells if cell.value is not None]
    if len(values) < wanted:
        return Cell(reason=next((cell.reason for cell in cells if cell.reason), _MISSING))
    margin = math.hypot(*(cell.margin or 0.0 for cell in cells)) / wanted
    return Cell(statistics.fmean(values), margin=margin, seeds=min(cell.seeds for cell in cells))


def _h(base: Cell, new: Cell) -> Cell:
    if base.value is None or new.value is None:
        return Cell(reason=base.reason or new.reason)
    b, n = base.value, new.value
    margin = None
    if base.margin is not None and new.margin is not None and b + n:  # to first order
        margin = math.hypot(base.margin * n**2, new.margin * b**2) * 2 / (b + n) ** 2
    return Cell(statistics.harmonic_mean((b, n)), margin=margin, seeds=min(base.seeds, new.seeds))


def _compare(section: Section) -> None:
    """Put the baseline first and averages of weights last, take differences to the baseline, mark the best of each
    column."""
    order = list(dict.fromkeys(row.series for row in section.rows))

    def place(row: Row) -> tuple[bool, int, float]:
        later = row.records[0].method.name != BASELINE
        return later, -1 if row.alpha is None else order.index(row.series), row.alpha or 0.0

    section.rows.sort(key=place)
    for i in range(len(section.columns)):
        scored = [(row, row.cells[i], value) for row in section.rows if (value := row.cells[i].value) is not None]
        top = max((value for *_, value in scored), default=0.0)
        origin = section.baseline.cells[i] if section.baseline else Cell()
        for row, cell, value in scored:
            cell.best = len(section.rows) > 1 and round(value, 1) == round(top, 1)
            if origin.value is not None and row is not section.baseline:
                cell.delta = value - origin.value
                clear = abs(cell.delta) > max(origin.margin or 0.0, cell.spread or 0.0)
                cell.trend = "same" if not clear else "up" if cell.delta > 0 else "down"


# ---- which records are one row


def _rows(records: Sequence[Record], by_shots: bool) -> dict[str, list[Record]]:
    """Records by row label: the method's label, and what else of their identities differs, other than by the seed."""
    rows: dict[str, list[Record]] = {}
    by_shots = by_shots and len({r.shots for r in records if r.training}) > 1
    for (label, _), group in grouped(records, lambda r: (r.method.label, by_shots and r.shots is None)).items():
        facts = [_facts(r) for r in group]
        # the same seed with other images: then these tell the trainings apart
        alike = {json.dumps({**each, "task.content": ""}) for each in facts}
        whole = any(r.training and r.shots is None for r in group)  # no sample, so that every seed has the same images
        seeds = _OF_A_SEED[:2] if whole or len(alike) < len(set(map(json.dumps, facts))) else _OF_A_SEED
        names = dict.fromkeys(name for each in facts for name in each if name not in (*seeds, "task.shots"))
        differing = [name for name in names if len({json.dumps(each.get(name)) for each in facts}) > 1]
        for record, each in zip(group, facts, strict=True):
            some = "all training images" if record.shots is None else counted(record.shots, "shot")
            shots = [some] if by_shots and record.training else []
            extra = [*shots, *(_spelled(record, name, each[name]) for name in differing if each.get(name) is not None)]
            rows.setdefault(", ".join([label, *dict.fromkeys(extra)]), []).append(record)
    return rows


def _spelled(record: Record, name: str, value: Any) -> str:
    """A fact of an identity in a label."""
    if name in ("task.subset", "task.classes", "task.name") and record.training:
        return f"trained on {record.training.task.name}, {record.training.task.subset} classes"
    if name in ("task.templates", "prompts"):
        value = " ".join(value or ())
    word = name.rpartition(".")[2]
    return f"{ {'content': 'images', 'templates': 'prompts'}.get(word, word.replace('_', ' ')) } {value}"


# ---- what is said about records


def _caption(records: Sequence[Record]) -> str:
    shots, seeds = _distinct(r.shots for r in records), _distinct(r.seed for r in records)
    precisions = sorted({r.precision for r in records})
    parts = [f"{_listed(shots)} shot{'s' * (shots[-1] != 1)}"] if shots else []
    parts += ["all training images"] if any(r.role and r.training and r.shots is None for r in records) else []
    parts += [f"seed{'s' * (len(seeds) != 1)} {_listed(seeds)}"] if seeds else []
    parts += [f"scored in {' and '.join(precisions)}"] if precisions != ["fp32"] else []
    asked = [r for r in records if r.training and not r.role and r.data.templates != r.training.task.templates]
    others = dict.fromkeys(template for r in asked for template in r.data.templates)
    parts += [f"prompts other than in training: {' '.join(others)}"] if others else []
    names = test_names(records)
    counts = {
        names[place]: " or ".join(map(str, sorted({r.data.images for r in group})))
        for place, group in grouped(records, lambda r: r.data.place).items()
    }
    if len(set(counts.values())) == 1 < len(counts):
        images = f"{counts.popitem()[1]} images in each test set"
    else:
        images = ", ".join(f"{number} {name} images" for name, number in counts.items())
    return "; ".join([*parts, images])


def _distinct(numbers: Iterable[int | None]) -> list[int]:
    """Each number once, in ascending order, without None."""
    return sorted({number for number in numbers if number is not None})


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def test_names(records: Iterable[Record]) -> dict[Place, str]:
    """As few words as tell the test sets apart."""
    sets = grouped(dict.fromkeys(r.data.place for r in records), lambda place: place[0])
    names = {}
    for data, places in sets.items():
        for place in places:
            part = place[1] if place[1] in HALVES else place[2] or "test"
            names[place] = part if len(sets) == 1 else data if len(places) == 1 else f"{data} {part}"
    return names


def _warnings(section: Section) -> list[str]:
    """What makes numbers of the section less comparable than they look."""
    notes = []
    for place, group in grouped(section.records, lambda r: r.data.place).items():
        lines = []
        if len({r.data.hash for r in group}) > 1:
            lines.append("not all records were scored on the same test images; differences may come from that.")
        if len({r.data.templates for r in group}) > 1:
            lines.append("the records do not use the same templates.")
        if len({r.precision for r in group}) > 1:
            lines.append("not all records were scored in the same precision.")
        skipped = max(len(r.data.skipped) for r in group)
        lines += [f"{counted(skipped, 'unreadable test image')} left out."] if skipped else []
        lines += dict.fromkeys(r.note for r in group if r.note)
        notes += [f"{', '.join(filter(None, place))}: {line}" for line in lines]
    for row in section.rows:
        runs = [r.training for r in row.records if r.training]
        recipes = {
            json.dumps([run.recipe, [knob for knob in run.method.knobs.items() if knob[0] not in run.method.files]])
            for run in runs
        }
        if len(recipes) > 1:
            notes.append(f"{section.title}, {row.label}: not all of it was trained by the same recipe and knobs.")
        seeds = {cell.seeds for cell in row.cells if cell.value is not None}
        if len(seeds) > 1:
            notes.append(f"{section.title}, {row.label}: columns come from {min(seeds)} to {max(seeds)} seeds.")
    return notes
