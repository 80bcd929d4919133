"""The paragraph of a page that says in words what the numbers of its table say."""

from __future__ import annotations

from collections.abc import Sequence

from steadyclip.report.cells import MEANS, Cell, Row, Section, Table, grouped

# More data sets than this are read through their average, more methods through their number.
_SECTIONS, _ROWS = 2, 5
_VERBS = {
    "up": ("gains", "gain"),
    "down": ("loses", "lose"),
    "same": ("shows no clear change", "show no clear change"),
    "none": ("has no score", "have no score"),
    "": ("reaches", "reach"),
}
"""What a cell does -> how one method and how several are said to do it."""


def reading(table: Table) -> str:
    """What the baseline reaches, what each method gains or loses, which H is best, and how sure that is."""
    pairs = [section for section in table.sections if section.base_to_new]
    averages = [section for section in pairs if section.average]
    singles = [section for section in pairs if section not in averages]
    many = averages and len(singles) > _SECTIONS
    sections = averages if many else (singles or table.sections)[:_SECTIONS]
    sentences = [sentence for section in sections for sentence in _section(section)]
    rows = [row for section in sections for row in section.rows]
    if any(cell.trend == "same" for row in rows for cell in row.cells):
        paired = all(section.paired for section in sections)
        what = "its paired 95 % interval does not hold 0" if paired else (
            "it exceeds half of the baseline's 95 % interval over test images and the standard deviation over seeds"
        )  # fmt: skip
        sentences.append(f"A change is called clear when {what}.")
    trained = [row for section in sections for row in section.rows if row is not section.baseline]
    if any(cell.value is not None and cell.seeds == 1 for row in trained for cell in row.cells):
        sentences.append("Where there is a single seed, the spread between runs is unknown.")
    return " ".join(sentences)


def _section(section: Section) -> list[str]:
    columns, origin = _columns(section), section.baseline
    rows = [row for row in section.rows if row is not origin and row.alpha is None]  # a curve is seen, not read
    if origin is None:
        first = f"{section.title}: there is no baseline among the records, so nothing says what was gained or lost."
    else:
        # what learns nothing is the same with any number of shots
        read = {0: ""} if section.shots else columns
        reached = [f"{v:.1f}{place}" for i, place in read.items() if (v := origin.cells[i].value) is not None]
        first = f"{section.title}: {origin.label} reaches {_and(reached) or 'nothing that could be scored'}."
    if origin is not None and len(rows) > _ROWS:
        said = [f"Of {len(rows)} methods,{place} {_counts(rows, i)}." for i, place in columns.items()]
    else:
        said = [f"{row.label} {_changes(row, columns)}." for row in rows]
    return [first, *said, *_best_h(section)]


def _columns(section: Section) -> dict[int, str]:
    """The columns to speak of (the halves, the ends of a curve, the source and the means), and where each was scored:
    " on base", " on the mean of data" or " with 16 shots"."""
    chosen = list(range(len(section.columns)))
    means = [i for i in chosen if section.columns[i] in MEANS.values()]
    if section.base_to_new or section.shots:
        chosen = [0, max(1, len(section.shots) - 1)]
    elif means:
        chosen = [0, *means]
    word = " with " if section.shots else " on "
    return {i: word + "the " * (i in means) + section.columns[i] for i in chosen}


def _does(cell: Cell) -> str:
    return "none" if cell.value is None else cell.trend


def _counts(rows: Sequence[Row], index: int) -> str:
    """How many methods gain, lose, show no clear change or have no score in a column."""
    kinds = grouped(rows, lambda row: _does(row.cells[index]))
    parts = []
    for kind, (one, several) in _VERBS.items():
        found = kinds.get(kind, [])
        named = ", ".join(row.label for row in found)
        if found and kind in ("up", "down"):
            most = max(found, key=lambda row: abs(row.cells[index].delta or 0))
            named = f"{most.label}{' most' * (len(found) > 1)}, {abs(most.cells[index].delta or 0):.1f} points"
        parts += [f"{len(found)} {several if len(found) > 1 else one} ({named})"] if found else []
    return _and(parts)


def _changes(row: Row, columns: dict[int, str]) -> str:
    """What one method does in each column, the same verb said once."""
    said: dict[str, list[str]] = {}
    for i, place in columns.items():
        cell = row.cells[i]
        texts = {
            "none": place.strip(),
            "same": f"{place.strip()} ({cell.change})",
            "": f"{cell.value or 0:.1f}{place}",
        }
        text = texts.get(_does(cell), f"{abs(cell.delta or 0):.1f} points{place}")
        said.setdefault(_VERBS[_does(cell)][0], []).append(text)
    return _and([f"{verb} {_and(parts)}" for verb, parts in said.items()])


def _best_h(section: Section) -> list[str]:
    """One sentence on each H column, where there is more than one method to choose from."""
    sentences = []
    for i, name in enumerate(section.columns[2:] if section.base_to_new else (), 2):
        best = [row for row in section.rows if row.cells[i].best]
        trained = [row for row in best if row is not section.baseline]
        text = f"The best {name} is {best[0].cells[i].value:.1f} ({_and([row.label for row in best])})" if best else ""
        if not trained:
            text += ": no method improves on it"
        elif section.baseline and all(row.cells[i].trend == "same" for row in trained):
            text += f", no clear difference to {section.baseline.label}"
        sentences += [f"{text}."] if best else []
    return sentences


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
