"""The charts of accuracy: bars for base and new, and a line for each method over the number of shots."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steadyclip.report import chart
from steadyclip.report.cells import HALVES, Cell, Section
from steadyclip.report.chart import COLORS, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR = 0.36
_LABEL = 20
"""Characters of a label in one line."""
_BESIDE = 0.3
"""Between the first and the last method at one number of shots, in doublings."""


def bars(section: Section, _: Mapping[str, Style]) -> str:
    """An ``<svg>`` element: two bars for each method, whiskers, dashed lines at the baseline; nothing for a section
    without base and new."""
    if not section.base_to_new:
        return ""

    def paint(figure: Figure) -> None:
        from matplotlib.patches import Patch

        axes = figure.add_subplot()
        chart.plain(axes)
        axes.grid(False)
        for position, row in enumerate(section.rows):
            for half, cell, offset in zip(HALVES, row.cells, (-_BAR / 2, _BAR / 2), strict=False):
                _bar(axes, position + offset, cell, COLORS[half])
        handles = [Patch(color=COLORS[half], label=half) for half in HALVES]
        if section.baseline is not None:
            for half, cell in zip(HALVES, section.baseline.cells, strict=False):
                if cell.value is not None:
                    axes.axvline(cell.value, color=COLORS[half], linestyle=chart.DASHED, linewidth=1, zorder=0.5)
            handles.append(chart.dashes(section.baseline.label))
        axes.set_yticks(range(len(section.rows)))
        labels = [textwrap.fill(row.label, _LABEL) for row in section.rows]
        axes.set_yticklabels(labels, color=COLORS["ink"], parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(0, _limit(section))
        axes.set_xlabel("top-1 accuracy, %")
        chart.legend(figure, handles)

    height = 0.75 + 0.52 * len(section.rows)
    return chart.draw(f"bars {section.title}", f"Bars of base and new accuracy: {section.title}", height, paint)


def _bar(axes: Axes, y: float, cell: Cell, color: str) -> None:
    if cell.value is None:
        axes.text(0.5, y, "no score", va="center", color=COLORS["quiet"], fontsize=8)
        return
    axes.barh(y, cell.value, _BAR * 0.92, color=color)
    half, shade = chart.whisker(cell)
    if half:
        axes.errorbar(cell.value, y, xerr=half, color=shade, linewidth=1, capsize=2)
    behind = {"facecolor": COLORS["paper"], "edgecolor": "none", "pad": 1}  # keeps the dashed lines off the number
    number = f"{cell.value:.1f}"
    axes.text(cell.value + half + 0.9, y, number, va="center", color=COLORS["ink"], fontsize=8, bbox=behind)


def _limit(section: Section) -> float:
    """Bars start at 0; the axis ends where the longest bar has room for its number, at 100 at most plus that room."""
    cells = [cell for row in section.rows for cell in row.cells[:2]]
    return max((c.value + chart.whisker(c)[0] for c in cells if c.value is not None), default=100.0) * 1.02 + 6


def curves(section: Section, styles: Mapping[str, Style]) -> str:
    """An ``<svg>`` element: a line for each method with whiskers, the baseline dashed; nothing for a section without
    shots."""
    rows = [row for row in section.rows if row is not section.baseline]
    if not section.shots or not rows:
        return ""
    baseline = section.baseline
    labels = [row.label for row in section.rows]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        chart.plain(axes)
        handles = []
        if baseline is not None and (value := baseline.cells[0].value) is not None:
            half = baseline.cells[0].interval or 0.0
            axes.axhline(value, color=COLORS["quiet"], linestyle=chart.DASHED, linewidth=1)
            axes.axhspan(value - half, value + half, color=COLORS["quiet"], alpha=0.1, linewidth=0)
            handles.append(chart.dashes(baseline.label))
        for place, row in enumerate(rows):
            style = styles[row.label]
            # a little beside each other: whiskers of equal methods do not hide each other
            aside = 2 ** (_BESIDE * (place / (len(rows) - 1) - 0.5)) if len(rows) > 1 else 1.0
            x = [shots * aside for shots in section.shots]
            y = [math.nan if cell.value is None else cell.value for cell in row.cells]
            for at, cell in zip(x, row.cells, strict=True):
                half, shade = chart.whisker(cell)
                if cell.value is not None and half:
                    color = style.color if cell.spread is not None else shade
                    axes.errorbar(at, cell.value, yerr=half, color=color, linewidth=0.9, alpha=0.7)
            axes.plot(
                x, y, color=style.color, marker=style.marker, markersize=5, linewidth=1.3,
                markeredgecolor=COLORS["paper"], markeredgewidth=0.6,
            )  # fmt: skip
            handles.append(chart.key(style, row.label, linestyle="-", linewidth=1.3))
        axes.set_xscale("log", base=2)
        axes.set_xticks(section.shots, [str(shots) for shots in section.shots])
        axes.minorticks_off()
        axes.set_xlabel("training images per class")
        axes.set_ylabel("top-1 accuracy, %")
        chart.legend(figure, handles)

    height = 3.1 + chart.legend_height(labels)
    return chart.draw(f"curves {section.title}", f"Accuracy over shots: {section.title}", height, paint)
