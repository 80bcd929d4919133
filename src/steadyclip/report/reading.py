"""What the numbers say, in a few sentences, made from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from steadyclip.report.cells import MEANS, Cell, Row, Section, Table, signed

# More data sets than this are read through their average, more methods through their number.
_SECTIONS, _ROWS = 2, 5


def reading(table: Table) -> str:
    """One paragraph: what the baseline reaches, what each method gains or loses, which H is best, how sure that is."""
    sections = _chosen(table)
    sentences = [sentence for section in sections for sentence in _section(section)]
    cells = [cell for section in sections for row in section.rows for cell in row.cells]
    if any(cell.trend == "same" for cell in cells):
        sentences.append(
            "A change is called clear when it exceeds half of the baseline's 95 % interval over test images and "
            "the standard deviation over seeds."
        )
    trained = [row for section in sections for row in section.rows if row is not section.baseline]
    if any(cell.value is not None and cell.seeds == 1 for row in trained for cell in row.cells):
        sentences.append("Where there is a single seed, the spread between runs is unknown.")
    return " ".join(sentences)


def _chosen(table: Table) -> Sequence[Section]:
    """Base to new before anything else; the average when there are many data sets."""
    pairs = [section for section in table.sections if section.base_to_new]
    singles = [section for section in pairs if len(section.columns) == 3]
    averages = [section for section in pairs if len(section.columns) > 3]
    if averages and len(singles) > _SECTIONS:
        return averages
    return (singles or table.sections)[:_SECTIONS]


_VERBS = {"up": "gain", "down": "lose", "same": "show no clear change", "none": "have no score"}
"""What a cell does -> how several methods are said to do it."""


def _section(section: Section) -> list[str]:
    origin = section.baseline
    if origin is not None:
        reached = [f"{c.value:.1f}{where}" for where, c in _named(section, origin) if c.value is not None]
        first = f"{section.title}: {origin.label} reaches {_and(reached) or 'nothing that could be scored'}."
    else:
        first = f"{section.title}: there is no baseline among the records, so nothing says what was gained or lost."
    rows = [row for row in section.rows if row is not origin and row.alpha is None]  # a curve is seen, not read
    if origin is not None and len(rows) > _ROWS:
        return [first, *_counts(section, rows), *_best_h(section)]
    return [first, *(f"{row.label} {_and(_changes(section, row))}." for row in rows), *_best_h(section)]


def _one(verb: str) -> str:
    """The verb of one method: "loses", "shows no clear change"."""
    word, space, rest = verb.partition(" ")
    return ("has" if word == "have" else f"{word}s") + space + rest


def _counts(section: Section, rows: Sequence[Row]) -> list[str]:
    """One sentence on each column: how many methods gain, lose, show no clear change or have no score."""
    sentences = []
    for i in section.summary:
        cells = {row.label: row.cells[i] for row in rows}
        parts = []
        for kind, verb in _VERBS.items():
            found = [label for label, cell in cells.items() if ("none" if cell.value is None else cell.trend) == kind]
            listed = ", ".join(found)
            if found and kind in ("up", "down"):
                most = max(found, key=lambda label: abs(cells[label].delta or 0.0))
                listed = f"{most}{' most' if len(found) > 1 else ''}, {abs(cells[most].delta or 0.0):.1f} points"
            parts += [f"{len(found)} {verb if len(found) > 1 else _one(verb)} ({listed})"] if found else []
        sentences.append(f"Of {len(rows)} methods, {_where(section, i).strip()} {_and(parts)}.")
    return sentences


def _changes(section: Section, row: Row) -> list[str]:
    """What one method does in each column, the same verb said once."""
    said: dict[str, list[str]] = {}
    for where, cell in _named(section, row):
        if cell.value is None:
            verb, text = "none", where.strip()
        elif cell.delta is None:
            verb, text = "", f"{cell.value:.1f}{where}"
        elif cell.trend == "same":
            verb, text = "same", f"{where.strip()} ({signed(cell.delta)})"
        else:
            verb, text = cell.trend, f"{abs(cell.delta):.1f} points{where}"
        said.setdefault(_one(_VERBS[verb]) if verb else "reaches", []).append(text)
    return [f"{verb} {_and(parts)}" for verb, parts in said.items()]


def _best_h(section: Section) -> list[str]:
    """One sentence on each H column, where there is more than one method to choose from."""
    sentences = []
    for index, name in enumerate(section.columns[2:] if section.base_to_new else (), 2):
        best = [(row, row.cells[index]) for row in section.rows if row.cells[index].best]
        if not best:
            continue
        owners = _and([row.label for row, _ in best])
        text = f"The best {name} is {best[0][1].value:.1f} ({owners})"
        if all(row is section.baseline for row, _ in best):
            text += ": no method improves on it"
        elif all(cell.trend == "same" for row, cell in best if row is not section.baseline):
            text += f", no clear difference to {section.baseline.label if section.baseline else 'the baseline'}"
        sentences.append(text + ".")
    return sentences


def _named(section: Section, row: Row) -> list[tuple[str, Cell]]:
    """The columns to be read, each with the words for where that is."""
    if section.shots and row is section.baseline:  # what learns nothing is the same with any number of shots
        return [("", row.cells[0])]
    return [(_where(section, i), row.cells[i]) for i in section.summary]


def _where(section: Section, index: int) -> str:
    """ " on base", " on the mean of data" or " with 16 shots"."""
    name = section.columns[index]
    return f" {'with' if section.shots else 'on'} {'the ' if name in MEANS.values() else ''}{name}"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
