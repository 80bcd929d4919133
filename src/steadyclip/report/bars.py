"""Base and new accuracy of each method as bars."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from steadyclip.report import chart
from steadyclip.report.cells import HALVES, Cell, Section
from steadyclip.report.chart import COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BAR = 0.36
_LABEL = 20
"""Characters of a label in one line."""


def bars(section: Section) -> str:
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
