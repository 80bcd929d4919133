"""The charts of a page: bars, curves over shots, and what was gained against what was lost.

Each is an inline SVG in the colors of the page: while drawing, other colors stand for its CSS variables, so that dark
mode and print need no second image. The same records give the same bytes: no date, fixed ids, text as text.
"""

from __future__ import annotations

import html
import io
import math
import re
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyclip.evaluation.forgetting import forgetting, held_out
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import BASELINE, HALVES, Cell, Row, Section, grouped, percents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES = tuple(f"c{i}" for i in range(1, 11))
COLORS = {name: f"#b05e{i:02x}" for i, name in enumerate(("base", "new", "ink", "quiet", "line", "paper", *_SERIES), 1)}
"""CSS variable of the page -> the color that stands for it while drawing."""
_MARKERS = "os^DvPX"  # no common divisor with the number of colors: 70 methods look different
_WIDTH = 4.1  # inches; a phone shows the chart at about this size
_DASHES: Any = {"color": COLORS["quiet"], "linestyle": (0, (3, 2)), "linewidth": 1, "zorder": 1}

Point = tuple[float, float]
"""x and y, in percent or as a share."""


class Style(NamedTuple):
    """How a method looks in every chart of a page."""

    color: str
    marker: str


@dataclass
class _Chart:
    """Axes to draw into, side by side, and the entries of the legend above them; ``svg`` is the result."""

    axes: Sequence[Axes]
    legend: dict[str, Any] = field(default_factory=dict)
    svg: str = ""


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A look for each label, by order of first appearance."""
    return {
        label: Style(COLORS[_SERIES[i % len(_SERIES)]], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


@contextmanager
def drawn(label: str, height: float, panels: int = 1) -> Iterator[_Chart]:
    """A chart to fill, ``height`` inches without its legend; ``label`` says what it is to those who cannot see it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    salt: Any = {"svg.hashsalt": label}  # ids are hashes of content and salt: those of one page differ
    with mpl.rc_context(salt, fname=Path(__file__).with_name("chart.mplstyle")):
        figure = Figure()
        chart = _Chart(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        yield chart
        columns = max(1, min(4, len(chart.legend), 52 // (6 + max(map(len, chart.legend)))))
        figure.set_size_inches(_WIDTH, height + 0.1 + 0.2 * math.ceil(len(chart.legend) / columns))
        legend = figure.legend(chart.legend.values(), chart.legend, loc="outside upper left", ncols=columns)
        for text in legend.get_texts():
            text.set_parse_math(False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    chart.svg = _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """The ``<svg>`` element alone, sized by the page, its colors as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(line2d|[A-Za-z_.]+)_\d+"', "", svg)  # figure_1, axes_1, ...: nothing refers to them
    svg = re.sub(r"^<svg[^>]*>", lambda tag: re.sub(r' (width|height)="[^"]*"', "", tag[0]), svg)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{html.escape(label)}"', 1)


def _whisker(cell: Cell) -> tuple[float, str]:
    """Half its length and its color: the spread over seeds, or in gray what one run has, the interval over images."""
    return (cell.interval or 0.0, COLORS["quiet"]) if cell.spread is None else (cell.spread, COLORS["ink"])


def bars(section: Section, _: Mapping[str, Style]) -> str:
    """What each method changed on base and on new against the baseline, two bars around zero, pale where the change is
    not clear; without a baseline a dot for each accuracy. Nothing for a section without base and new."""
    if not section.base_to_new:
        return ""
    from matplotlib.patches import Patch

    baseline, rows = section.baseline, [row for row in section.rows if row is not section.baseline]
    if baseline is None or not rows:
        return _levels(section)
    thick, start = 0.36, {half: baseline.cells[i].value for i, half in enumerate(HALVES)}
    with drawn(f"Change of base and new accuracy: {section.title}", 0.55 + 0.52 * len(rows)) as chart:
        (axes,) = chart.axes
        ends = [0.0]
        for i, half in enumerate(HALVES):
            for at, row in enumerate(rows):
                cell, y = row.cells[i], at + (i - 0.5) * thick
                if cell.delta is None:
                    axes.text(0, y, " no score", color=COLORS["quiet"], va="center", fontsize=8)
                    continue
                pale = 0.4 if cell.trend == "same" else 1.0
                axes.barh(y, cell.delta, thick * 0.92, color=COLORS[half], alpha=pale)
                if cell.spread:
                    axes.errorbar(cell.delta, y, xerr=cell.spread, color=COLORS["ink"], linewidth=1, capsize=2)
                end = cell.delta + math.copysign(cell.spread or 0.0, cell.delta)
                side = "left" if cell.delta >= 0 else "right"
                space = " " if side == "left" else ""
                text = f"{space}{cell.change}{'' if space else ' '}"
                axes.text(end, y, text, color=COLORS["ink"], va="center", ha=side, fontsize=8)
                ends.append(end)
            name = half if start[half] is None else f"{half}, from {start[half]:.1f}"
            chart.legend[name] = Patch(color=COLORS[half])
        axes.axvline(0, **{**_DASHES, "linestyle": "-"})
        room = 0.2 * max(1.0, max(ends) - min(ends))  # for the numbers
        axes.set_xlim(min(ends) - room * (min(ends) < 0), max(ends) + room)
        axes.set_xlabel(f"change of top-1 accuracy against {baseline.label}, points")
        _name_rows(axes, rows)
    return chart.svg


def _levels(section: Section) -> str:
    """A dot with whiskers for base and new of each row."""
    with drawn(f"Base and new accuracy: {section.title}", 0.45 + 0.4 * len(section.rows)) as chart:
        (axes,) = chart.axes
        for i, half in enumerate(HALVES):
            (chart.legend[half],) = axes.plot([], [], "o", color=COLORS[half])
            for at, cell in enumerate(row.cells[i] for row in section.rows):
                y = at + (i - 0.5) * 0.3
                if cell.value is not None:
                    length, shade = _whisker(cell)
                    axes.errorbar(cell.value, y, xerr=length or None, color=shade, linewidth=1, capsize=2)
                    axes.plot(cell.value, y, "o", color=COLORS[half])
                    axes.annotate(f"{cell.value:.1f}", (cell.value, y), (0, 4), textcoords="offset points", fontsize=8)
        axes.margins(x=0.15)
        axes.set_xlabel("top-1 accuracy, %")
        _name_rows(axes, section.rows)
    return chart.svg


def _name_rows(axes: Axes, rows: Sequence[Row]) -> None:
    """Names beside the rows, cut where they are long: the table above has them in full."""
    labels = [textwrap.shorten(row.label.replace("[", " ["), 18, placeholder=" …") for row in rows]
    full = [
        label if labels.count(label) == 1 else textwrap.fill(row.label, 20)
        for label, row in zip(labels, rows, strict=True)
    ]
    axes.set_yticks(range(len(rows)), full, color=COLORS["ink"], parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False)


def exchange(section: Section, looks: Mapping[str, Style]) -> str:
    """What was gained on base against what became of new, a point for each method with its paired intervals; nothing
    for sections that are not of differences to the frozen model."""
    both = section.rows if section.base_to_new else []
    rows = [(row, new, base) for row in both if (new := _ends(row, 1)) and (base := _ends(row, 0))]
    if not section.title.endswith(f": difference to {BASELINE}") or not rows:
        return ""
    with drawn(f"Gain on base against change on new: {section.title}", 3.2) as chart:
        (axes,) = chart.axes
        axes.axvline(0, **_DASHES)
        chart.legend[BASELINE] = axes.axhline(0, **_DASHES)
        for row, (x, x_low, x_high), (y, y_low, y_high) in rows:
            color, marker = looks[row.label]
            whiskers: Any = {"xerr": [[x - x_low], [x_high - x]], "yerr": [[y - y_low], [y_high - y]]}
            axes.errorbar(x, y, color=color, alpha=0.5, linewidth=1, **whiskers)
            chart.legend[row.label] = axes.scatter(x, y, color=color, marker=marker, s=46, zorder=3)
        axes.set(xlabel="change on new classes, points", ylabel="change on trained classes, points")
        axes.locator_params(nbins=5)
    return chart.svg


def _ends(row: Row, column: int) -> tuple[float, float, float] | None:
    """Value, low and high of a difference; None where there is none."""
    cell = row.cells[column]
    return None if cell.value is None or cell.low is None or cell.high is None else (cell.value, cell.low, cell.high)


def standalone(svg: str) -> str:
    """A chart of a page as a file of its own: with the page's colors, light or dark as its reader's screen is."""
    colors = (Path(__file__).with_name("templates") / "colors.css").read_text(encoding="utf-8")
    size = re.sub(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', r'\g<0> width="\1pt" height="\2pt"', svg, count=1)
    return size.replace(">", f"><style>{colors}</style>", 1)


def curves(section: Section, looks: Mapping[str, Style]) -> str:
    """A line for each method with whiskers, the baseline dashed; nothing for a section without shots."""
    baseline, rows = section.baseline, [row for row in section.rows if row is not section.baseline]
    if not section.shots or not rows:
        return ""
    edge: Any = {"markeredgecolor": COLORS["paper"], "markeredgewidth": 0.6, "markersize": 5}
    with drawn(f"Accuracy over shots: {section.title}", 3.1) as chart:
        (axes,) = chart.axes
        if baseline is not None and (value := baseline.cells[0].value) is not None:
            half = baseline.cells[0].interval or 0.0
            chart.legend[baseline.label] = axes.axhline(value, **_DASHES)
            axes.axhspan(value - half, value + half, color=COLORS["quiet"], alpha=0.1, linewidth=0)
        for place, row in enumerate(rows):
            color, marker = looks[row.label]
            # a little beside each other, 0.3 doublings in all: whiskers of equal methods do not hide each other
            aside = 2 ** (0.3 * (place / (len(rows) - 1) - 0.5)) if len(rows) > 1 else 1.0
            x = [shots * aside for shots in section.shots]
            y = [math.nan if cell.value is None else cell.value for cell in row.cells]
            for at, value, cell in zip(x, y, row.cells, strict=True):
                length, shade = _whisker(cell)
                if length:
                    shade = shade if cell.spread is None else color
                    axes.errorbar(at, value, yerr=length, color=shade, linewidth=0.9, alpha=0.7)
            (chart.legend[row.label],) = axes.plot(x, y, color=color, marker=marker, linewidth=1.3, **edge)
        axes.set_xscale("log", base=2)
        axes.set_xticks(section.shots, map(str, section.shots))
        axes.minorticks_off()
        axes.set(xlabel="training images per class", ylabel="top-1 accuracy, %")
    return chart.svg


def shift(section: Section, looks: Mapping[str, Style]) -> str:
    """Mean accuracy over the domains of a shift against accuracy in distribution, averaged weights as a curve from the
    frozen model to the trained one; nothing for a section without a shift or without trainings."""
    baseline, sets = section.baseline, {r.data.test for r in section.records if r.role == "ood"}
    dots = {row.label: points for row in section.rows if (points := _shifted(row.records, len(sets)))}
    start = dots.pop(baseline.label, []) if baseline else []
    if not dots:
        return ""
    averages = [row for row in section.rows if row.alpha is not None and row.label in dots]
    ends = {label: points for label, points in dots.items() if label not in {row.label for row in averages}}
    thin: Any = {"linewidth": 1.1, "marker": ".", "markersize": 4}
    with drawn(f"Accuracy under shift against accuracy in distribution: {section.title}", 3.2) as chart:
        (axes,) = chart.axes
        _scatter(chart, axes, baseline, start, ends, looks)
        for name, rows in grouped(averages, lambda row: row.series).items():
            means = map(_mean, filter(None, [start, *(dots[row.label] for row in rows), ends.get(name)]))
            (line,) = axes.plot(*zip(*means, strict=True), color=looks[name].color, alpha=0.8, **thin)
            chart.legend.setdefault(name, line)
        if averages:
            (chart.legend["weight averages"],) = axes.plot([], [], color=COLORS["quiet"], **thin)
        axes.set(xlabel="in distribution, top-1 accuracy, %", ylabel="under shift, mean top-1 accuracy, %")
        axes.locator_params(nbins=5)
    return chart.svg


def drift(section: Section, looks: Mapping[str, Style]) -> str:
    """Change of accuracy on held-out classes and data against drift of either tower there, both from the frozen model;
    nothing where drift was not measured or there is no frozen model to compare with."""
    baseline, sets = section.baseline, {r.data.test for r in section.records if held_out(r)}
    frozen = baseline.records if baseline else []
    rows = [row for row in section.rows if row is not baseline and row.alpha is None]
    dots = {row.label: points for row in rows if (points := _drifted(row.records, frozen, sets))}
    if not dots:
        return ""
    with drawn(f"Change of held-out accuracy against drift: {section.title}", 2.7, panels=2) as chart:
        for tower, (name, axes) in enumerate(zip(("image", "text"), chart.axes, strict=True)):
            of_tower = {label: [(moved[tower], lost) for *moved, lost in points] for label, points in dots.items()}
            _scatter(chart, axes, baseline, [(0.0, 0.0)], of_tower, looks)
            axes.set_xlabel(f"drift of {name} features")
            axes.locator_params(nbins=3)
        chart.axes[0].set_ylabel("change on held-out tests, points")
    return chart.svg


def _scatter(
    chart: _Chart,
    axes: Axes,
    baseline: Row | None,
    origin: Sequence[Point],
    dots: Mapping[str, Sequence[Point]],
    looks: Mapping[str, Style],
) -> None:
    """A dashed cross at the baseline; for each method a large dot at the mean over seeds and a small one for each."""
    axes.margins(0.09)
    if baseline is not None and origin:
        x, y = _mean(origin)
        axes.axvline(x, **_DASHES)
        chart.legend[baseline.label] = axes.axhline(y, **_DASHES)
    large: Any = {"s": 46, "edgecolors": COLORS["paper"], "linewidths": 0.8, "zorder": 3}
    for label, points in dots.items():
        color, marker = looks[label]
        if len(points) > 1:
            axes.scatter(*zip(*points, strict=True), s=9, color=color, alpha=0.6, linewidths=0)
        chart.legend[label] = axes.scatter(*_mean(points), color=color, marker=marker, **large)


def _shifted(records: Sequence[Record], sets: int) -> list[Point]:
    """In distribution and under shift, a point for each run that was scored on all domains."""
    points = []
    for run in grouped(percents(records), lambda each: each[0].seed).values():
        inside, outside = ([top1 for r, top1 in run if r.role == role] for role in ("id", "ood"))
        if inside and outside and len(outside) == sets:
            points.append((statistics.fmean(inside), statistics.fmean(outside)))
    return points


def _drifted(records: Sequence[Record], frozen: Sequence[Record], sets: set) -> list[tuple[float, float, float]]:
    """Drift of the image and of the text tower, and forgetting, of each run that was scored on all of ``sets``."""
    points = []
    for run in grouped(records, lambda r: r.seed).values():
        held = [(r, r.drift) for r in run if held_out(r) and r.drift is not None and r.metrics is not None]
        lost = forgetting([r for r, _ in held], frozen) if {r.data.test for r, _ in held} == sets else None
        if lost is not None:
            moved = ([1 - towers.image.cka for _, towers in held], [1 - towers.text.cka for _, towers in held])
            points.append((*map(statistics.fmean, moved), 100 * lost))
    return points


def _mean(points: Iterable[Point]) -> Point:
    x, y = (statistics.fmean(axis) for axis in zip(*points, strict=True))
    return x, y
