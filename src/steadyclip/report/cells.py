"""The table of an experiment, with accuracies in percent, and how it is shown: terminal, Markdown, CSV, HTML.

``tables.py`` makes a ``Table`` from records.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from steadyclip.core.files import csv_text
from steadyclip.evaluation.records import Record

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.console import Group

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

BASELINE = "zero-shot"
"""The method that differences are taken to."""
HALVES = ("base", "new")
MEANS = {"ood": "mean of domains", "transfer": "mean of data"}
"""Role of test sets -> what the column of their mean is called."""
_COLORS = {"up": "green", "down": "red", "same": "dim"}


@dataclass
class Cell:
    """One number of the table, in percent.

    Attributes:
        value: mean over seeds, or None with the ``reason``.
        spread: sample standard deviation over seeds, None with fewer than two.
        margin: half the 95 % interval over test images.
        seeds: runs behind the mean.
        delta: difference to the baseline, None in its own row and where either is missing.
        trend: "up" or "down" where the difference is clear, "same" where it is not, "" for none: by its paired interval
            where there is one, else if it exceeds both the baseline's ``margin`` and the ``spread``.
        best: highest of its column as printed.
        published: the same number as it was printed elsewhere, or "".
        low, high: ends of the 95 % interval where the value is a difference between two methods.
    """

    value: float | None = None
    spread: float | None = None
    margin: float | None = None
    seeds: int = 0
    reason: str | None = None
    delta: float | None = None
    trend: str = ""
    best: bool = False
    published: str = ""
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> float | None:
        """``margin`` where there is only one run, and so no spread."""
        return self.margin if self.spread is None and self.seeds == 1 else None

    @property
    def text(self) -> str:
        """``71.2 ± 0.4``, without the spread where it is unknown; a difference as ``+1.2 [+0.3, +2.1]``."""
        if self.value is None:
            return "\N{EN DASH}"
        if self.low is not None and self.high is not None:
            return f"{signed(self.value)} [{signed(self.low)}, {signed(self.high)}]"
        return f"{self.value:.1f}" + (f" ± {self.spread:.1f}" if self.spread is not None else "")

    @property
    def change(self) -> str:
        """``+12.3`` or ``−8.1``, or nothing."""
        return "" if self.delta is None else signed(self.delta)


@dataclass
class Row:
    """One method with its settings; ``records`` are those its numbers come from."""

    label: str
    cells: list[Cell]
    records: list[Record]

    @property
    def alpha(self) -> float | None:
        """Share of the trained weights where they were averaged with the pretrained ones (WiSE-FT), else None."""
        return self.records[0].wise_alpha

    @property
    def series(self) -> str:
        """The label of the training; it is the same for all averages of its weights."""
        return self.label if self.alpha is None else self.label.replace(f", alpha {self.alpha:g}", "", 1)


@dataclass
class Section:
    """Rows that can be compared: one model, one data set.

    Attributes:
        shots: training images per class of each column of a few-shot curve; empty for every other section.
        belongs: for each column which records of a row its number is of; not for H, and not in sections of differences.
        average: means over several data sets.
        published: where the published numbers come from; "" where there are none.
        paired: a clear change is one whose paired interval does not hold 0.
    """

    title: str
    caption: str
    columns: tuple[str, ...]
    rows: list[Row]
    shots: tuple[int, ...] = ()
    belongs: tuple[Callable[[Record], bool], ...] = ()
    average: bool = False
    published: str = ""
    paired: bool = False

    @property
    def records(self) -> list[Record]:
        return [record for row in self.rows for record in row.records]

    @property
    def baseline(self) -> Row | None:
        """The first row, if it is that of the frozen model."""
        return self.rows[0] if self.rows[0].records[0].method.name == BASELINE else None

    @property
    def base_to_new(self) -> bool:
        """The columns are base, new and H (of one data set, or averages)."""
        return self.columns[:2] == HALVES

    @property
    def transfer(self) -> bool:
        """The columns are other domains or other data than what was trained on."""
        return bool(self.belongs) and not self.shots and any(r.role in MEANS for r in self.records)

    @property
    def printed(self) -> list[tuple[int, str, bool]]:
        """Columns as they are printed: index, heading, and whether it holds published numbers."""
        printed = []
        for i, name in enumerate(self.columns):
            printed.append((i, name, False))
            if any(row.cells[i].published for row in self.rows):
                printed.append((i, "published", True))
        return printed

    def has_spread(self, index: int) -> bool:
        """Some number of the column ``index`` has a standard deviation or an interval beside it."""
        return any(row.cells[index].spread is not None or row.cells[index].interval is not None for row in self.rows)


@dataclass(frozen=True)
class Table:
    """Sections below each other, and sections of differences between their rows; ``notes`` is what a reader must know
    before comparing.

    ``console.print(table)`` shows it in a terminal.
    """

    sections: tuple[Section, ...]
    notes: tuple[str, ...] = ()
    differences: tuple[Section, ...] = ()

    @property
    def every(self) -> tuple[Section, ...]:
        """All that is printed, what sums up last: a terminal shows its end."""
        return (*self.sections, *self.differences)

    @property
    def from_the_top(self) -> tuple[Section, ...]:
        """The same for a page, which is read from the top: averages over data sets and their differences first."""
        averages = [section for section in self.sections if section.average]
        first = [*averages, *self.differences] if averages else []
        return (*first, *(section for section in self.every if not any(section is other for other in first)))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why cells are empty, each reason once: the footnotes."""
        return tuple(dict.fromkeys(c.reason for s in self.every for row in s.rows for c in row.cells if c.reason))

    def mark(self, cell: Cell) -> str:
        """The footnote number of an empty cell, or nothing."""
        return str(self.reasons.index(cell.reason) + 1) if cell.reason else ""

    def __rich__(self) -> Group:
        from rich.console import Group
        from rich.table import Column
        from rich.table import Table as RichTable
        from rich.text import Text

        def shown(cell: Cell) -> Text:
            color = _COLORS.get(cell.trend, "")
            parts = [Text(cell.text, "bold" if cell.best else color if cell.low is not None else "")]
            parts.append(Text(cell.change, color))
            parts.append(Text(f"[{self.mark(cell)}]" if cell.reason else "", "dim"))
            return Text(" ").join(filter(None, parts))

        parts = []
        for section in self.every:
            columns = (Column(Text(name), justify="right", style="dim" * other) for _, name, other in section.printed)
            table = RichTable("method", *columns)
            for row in section.rows:
                cells = ((row.cells[i], other) for i, _, other in section.printed)
                table.add_row(Text(row.label), *(Text(c.published) if other else shown(c) for c, other in cells))
            # not the table's own title and caption: those wrap at the width of a narrow table
            parts += [Text(section.title, style="italic"), table, Text(section.caption, style="dim")]
        reasons = (f"[{i}] {reason}" for i, reason in enumerate(self.reasons, 1))
        return Group(*parts, *map(Text, (*reasons, *self.notes)))

    def markdown(self) -> str:
        """GitHub-flavored Markdown; the best of a column is bold."""
        return render("table.md", table=self).rstrip() + "\n"

    def csv(self) -> str:
        """One line for each number, unrounded and in percent; ``std`` is over seeds, ``margin`` half the 95 % interval
        over test images, ``low`` and ``high`` that of a difference, ``note`` why the number is missing."""
        heads = ["table", "method", "column", "mean", "std", "seeds", "difference", "margin", "low", "high"]
        heads += ["published", "note"]
        lines: list[Sequence[Any]] = [heads]
        for section in self.every:
            for row in section.rows:
                for column, cell in zip(section.columns, row.cells, strict=True):
                    numbers = (cell.value, cell.spread, cell.delta, cell.margin, cell.low, cell.high)
                    value, spread, *others = ("" if x is None else f"{x:.4f}" for x in numbers)
                    end = (*others, cell.published, cell.reason)
                    lines.append([section.title, row.label, column, value, spread, cell.seeds, *end])
        return csv_text(lines)

    def html(self) -> str:
        """An HTML fragment with classes ``section``, ``best``, ``up``, ``down``; all text escaped."""
        return render("table.html", table=self)


def render(template: str, **values: Any) -> str:
    """The jinja2 template with ``values`` put in; HTML is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=PackageLoader("steadyclip.report"),
        autoescape=select_autoescape(),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {"md": _markdown, "sha256": _sha256, "signed": signed, "prose": _prose}
    return environment.get_template(template).render(**values)


def _markdown(text: str) -> str:
    """``text`` as plain text in a Markdown table."""
    return re.sub(r"([\\`*_\[\]<>|])", r"\\\1", " ".join(text.split()))


def _prose(text: str) -> Markup:
    """Sentences as HTML in which a line ends neither within an option nor before a percent sign."""
    from markupsafe import Markup, escape

    spaced = str(escape(text)).replace(" %", "\N{NO-BREAK SPACE}%")
    return Markup(re.sub(r"(?<!\S)--[a-z][a-z-]*", r"<code>\g<0></code>", spaced))


def _sha256(text: str) -> str:
    """The hash by which a page names its own script in its content security policy."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Items by key, both in order of first appearance."""
    groups: dict[K, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def percents(records: Iterable[Record]) -> list[tuple[Record, float]]:
    """The records that have a score, each with its top-1 accuracy in percent."""
    return [(record, 100 * record.metrics.top1) for record in records if record.metrics is not None]


def signed(value: float) -> str:
    """``+1.2``, ``−0.4`` or ``±0.0``, with a true minus sign."""
    text = f"{abs(value):.1f}"
    return ("±" if float(text) == 0 else "+" if value > 0 else "\N{MINUS SIGN}") + text
