"""The charts of a page: bars, curves over shots, and what was gained against what was lost.

Each is an inline SVG that follows the colors of the page. The drawing is deterministic: no date, fixed ids, text as
text. Colors that stand for CSS variables are replaced after drawing, so that dark mode and print need no second image.
"""

from __future__ import annotations

import html
import io
import math
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyclip.evaluation.forgetting import forgetting, held_out
from steadyclip.evaluation.records import Record
from steadyclip.report.cells import HALVES, Cell, Section, grouped

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SERIES = tuple(f"c{i}" for i in range(1, 11))
COLORS = {name: f"#b05e{i:02x}" for i, name in enumerate(("base", "new", "ink", "quiet", "line", "paper", *_SERIES), 1)}
"""CSS variable of the page -> the color that stands for it while drawing."""
# as many as no divisor in common with the colors: 70 methods look different, also in black and white
_MARKERS = "os^DvPX"
_WIDTH = 4.1
"""Inches; a phone shows the chart at about its nominal size."""
_DASHES: Any = {"color": COLORS["quiet"], "linestyle": (0, (3, 2)), "linewidth": 1, "zorder": 1}
"""The baseline: above the grid, below the dots."""

Legend = dict[str, Any]
"""Name -> what matplotlib shows beside it."""


class Style(NamedTuple):
    """How a method looks in every chart of a page."""

    color: str
    marker: str


class Point(NamedTuple):
    """Both in percent, or x as a share."""

    x: float
    y: float


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A look for each label, by order of first appearance."""
    return {
        label: Style(COLORS[_SERIES[i % len(_SERIES)]], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


def _draw(kind: str, label: str, height: float, paint: Callable[..., Legend], panels: int = 1) -> str:
    """The ``<svg>`` element of what ``paint`` puts into ``panels`` axes beside each other.

    Args:
        kind: tells the charts of one page apart, so that their ids differ.
        label: what it is, for those who cannot see it.
        height: inches, without the legend above the axes.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.hashsalt": f"steadyclip {kind} {label}",  # ids are hashes of content and salt
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.labelcolor": COLORS["quiet"],
        # no frame and no ticks: light lines to read values by
        **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
        **{f"{axis}tick.{size}.size": 0 for axis in "xy" for size in ("major", "minor")},
        **{f"{axis}tick.color": COLORS["quiet"] for axis in "xy"},
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": COLORS["line"],
        "grid.linewidth": 0.6,
    }
    with mpl.rc_context(settings):
        figure = Figure(layout="constrained")
        entries = paint(*figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        columns = max(1, min(4, len(entries), 52 // (6 + max(map(len, entries)))))
        figure.set_size_inches(_WIDTH, height + 0.1 + 0.2 * math.ceil(len(entries) / columns))
        look: Any = {"frameon": False, "labelcolor": COLORS["ink"], "columnspacing": 1.2, "handletextpad": 0.5}
        place = "outside upper left"
        for text in figure.legend(entries.values(), entries, loc=place, ncols=columns, **look).get_texts():
            text.set_parse_math(False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), label)


def _inline(svg: str, label: str) -> str:
    """The ``<svg>`` element alone, sized by the page, its colors as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(line2d|[A-Za-z_.]+)_\d+"', "", svg)  # figure_1, axes_1, ...: nothing refers to them
    for size in ("width", "height"):
        svg = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", svg, count=1)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{html.escape(label)}"', 1)


def _whisker(cell: Cell) -> tuple[float, str]:
    """Half its length and its color: the spread over seeds, or in gray what one run has, the interval over images."""
    return (cell.interval or 0.0, COLORS["quiet"]) if cell.spread is None else (cell.spread, COLORS["ink"])


def bars(section: Section, _: Mapping[str, Style]) -> str:
    """Two bars for each method, whiskers, dashed lines at the baseline; nothing for a section without base and new."""
    rows, baseline, thick = section.rows, section.baseline, 0.36
    if not section.base_to_new:
        return ""

    def paint(axes: Axes) -> Legend:
        entries = {}
        behind = {"facecolor": COLORS["paper"], "edgecolor": "none", "pad": 1}  # keeps the dashed lines off the number
        number: Any = {"va": "center", "fontsize": 8}
        end = 0.0
        for i, half in enumerate(HALVES):
            places = [at + (i - 0.5) * thick for at in range(len(rows))]
            values = [row.cells[i].value or 0.0 for row in rows]
            entries[half] = axes.barh(places, values, thick * 0.92, color=COLORS[half])
            for y, cell in zip(places, (row.cells[i] for row in rows), strict=True):
                if cell.value is None:
                    axes.text(0.5, y, "no score", color=COLORS["quiet"], **number)
                    continue
                length, shade = _whisker(cell)
                if length:
                    axes.errorbar(cell.value, y, xerr=length, color=shade, linewidth=1, capsize=2)
                end = max(end, cell.value + length)
                right = cell.value + length + 0.9
                axes.text(right, y, f"{cell.value:.1f}", color=COLORS["ink"], bbox=behind, **number)
            if baseline is not None and (value := baseline.cells[i].value) is not None:
                axes.axvline(value, **{**_DASHES, "color": COLORS[half], "zorder": 0.5})
        if baseline is not None:
            (entries[baseline.label],) = axes.plot([], [], **_DASHES)
        labels = [textwrap.fill(row.label, 20) for row in rows]
        axes.set_yticks(range(len(rows)), labels, color=COLORS["ink"], parse_math=False)
        axes.set(xlim=(0, (end or 100) * 1.02 + 6), xlabel="top-1 accuracy, %")  # room for the number of the longest
        axes.invert_yaxis()
        axes.grid(False)
        return entries

    return _draw("bars", f"Bars of base and new accuracy: {section.title}", 0.45 + 0.52 * len(rows), paint)


def curves(section: Section, looks: Mapping[str, Style]) -> str:
    """A line for each method with whiskers, the baseline dashed; nothing for a section without shots."""
    baseline, rows = section.baseline, [row for row in section.rows if row is not section.baseline]
    if not section.shots or not rows:
        return ""

    def paint(axes: Axes) -> Legend:
        entries = {}
        if baseline is not None and (value := baseline.cells[0].value) is not None:
            half = baseline.cells[0].interval or 0.0
            entries[baseline.label] = axes.axhline(value, **_DASHES)
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
            edge: Any = {"markeredgecolor": COLORS["paper"], "markeredgewidth": 0.6, "markersize": 5}
            (entries[row.label],) = axes.plot(x, y, color=color, marker=marker, linewidth=1.3, **edge)
        axes.set_xscale("log", base=2)
        axes.set_xticks(section.shots, map(str, section.shots))
        axes.minorticks_off()
        axes.set(xlabel="training images per class", ylabel="top-1 accuracy, %")
        return entries

    return _draw("curves", f"Accuracy over shots: {section.title}", 3.1, paint)


def shift(section: Section, looks: Mapping[str, Style]) -> str:
    """Mean accuracy over the domains of a shift against accuracy in distribution, small dots for seeds, averaged
    weights as a curve from the frozen model to the trained one; nothing for a section without a shift or without
    trainings."""
    baseline, sets = section.baseline, {r.data.test for r in section.records if r.role == "ood"}
    dots = {row.label: found for row in section.rows if (found := _shifted(row.records, len(sets)))}
    rows = [row for row in section.rows if row is not baseline and row.label in dots]
    if not rows:
        return ""
    start = dots.get(baseline.label, []) if baseline else []

    def paint(axes: Axes) -> Legend:
        entries = _origin(axes, section, _mean(start) if start else None)
        entries |= {row.label: _dot(axes, dots[row.label], looks[row.label]) for row in rows if row.alpha is None}
        thin: Any = {"linewidth": 1.1, "marker": ".", "markersize": 4}
        for name, averages in grouped((row for row in rows if row.alpha is not None), lambda row: row.series).items():
            # its ends are the frozen model and the trained one
            means = map(_mean, filter(None, [start, *(dots[row.label] for row in averages), dots.get(name)]))
            (line,) = axes.plot(*zip(*means, strict=True), color=looks[name].color, alpha=0.8, **thin)
            entries.setdefault(name, line)
        if any(row.alpha is not None for row in rows):
            (entries["weight averages"],) = axes.plot([], [], color=COLORS["quiet"], **thin)
        axes.set(xlabel="in distribution, top-1 accuracy, %", ylabel="under shift, mean top-1 accuracy, %")
        axes.locator_params(nbins=5)
        return entries

    return _draw("shift", f"Accuracy under shift against accuracy in distribution: {section.title}", 3.2, paint)


def drift(section: Section, looks: Mapping[str, Style]) -> str:
    """Change of accuracy on held-out classes and data against drift of either tower there, both from the frozen model;
    nothing where drift was not measured or there is no frozen model to compare with."""
    baseline, sets = section.baseline, {r.data.test for r in section.records if held_out(r)}
    rows = [row for row in section.rows if row is not baseline and row.alpha is None]
    frozen = baseline.records if baseline else []
    dots = {row.label: found for row in rows if (found := _drifted(row.records, frozen, sets))}
    if not dots:
        return ""

    def paint(*both: Axes) -> Legend:
        entries = {}
        for tower, axes in enumerate(both):
            entries = _origin(axes, section, Point(0.0, 0.0))
            for name, points in dots.items():
                entries[name] = _dot(axes, [towers[tower] for towers in points], looks[name])
            axes.set_xlabel(f"drift of {('image', 'text')[tower]} features")
            axes.locator_params(nbins=4)
        both[0].set_ylabel("change on held-out tests, points")
        return entries

    return _draw("drift", f"Change of held-out accuracy against drift: {section.title}", 2.7, paint, panels=2)


def _origin(axes: Axes, section: Section, origin: Point | None) -> Legend:
    """The baseline as a cross, and room around the dots."""
    axes.margins(0.09)
    if origin is None or section.baseline is None:
        return {}
    axes.axvline(origin.x, **_DASHES)
    return {section.baseline.label: axes.axhline(origin.y, **_DASHES)}


def _dot(axes: Axes, points: Sequence[Point], style: Style) -> Any:
    if len(points) > 1:
        axes.scatter(*zip(*points, strict=True), s=9, color=style.color, alpha=0.6, linewidths=0)
    look: Any = {"marker": style.marker, "edgecolors": COLORS["paper"], "linewidths": 0.8, "zorder": 3}
    return axes.scatter(*_mean(points), s=46, color=style.color, **look)


def _shifted(records: Sequence[Record], sets: int) -> list[Point]:
    """In distribution and under shift, a point for each run that was scored on all domains."""
    points = []
    for run in grouped((r for r in records if r.metrics), lambda r: r.seed).values():
        inside, outside = (
            [100 * r.metrics.top1 for r in run if r.role == role and r.metrics] for role in ("id", "ood")
        )
        if inside and outside and len(outside) == sets:
            points.append(Point(statistics.fmean(inside), statistics.fmean(outside)))
    return points


def _drifted(records: Sequence[Record], frozen: Sequence[Record], sets: set) -> list[tuple[Point, Point]]:
    """Drift of the image and of the text tower against forgetting, for each run that was scored on all of ``sets``."""
    points = []
    for run in grouped(records, lambda r: r.seed).values():
        held = [(r, r.drift) for r in run if held_out(r) and r.drift is not None and r.metrics is not None]
        lost = forgetting([r for r, _ in held], frozen) if {r.data.test for r, _ in held} == sets else None
        if lost is not None:
            image = statistics.fmean(1 - moved.image.cka for _, moved in held)
            text = statistics.fmean(1 - moved.text.cka for _, moved in held)
            points.append((Point(image, 100 * lost), Point(text, 100 * lost)))
    return points


def _mean(points: Sequence[Point]) -> Point:
    return Point(*(statistics.fmean(axis) for axis in zip(*points, strict=True)))
