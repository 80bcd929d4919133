"""Accuracy over the number of shots, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from steadyclip.report import chart
from steadyclip.report.cells import Section
from steadyclip.report.chart import COLORS, Style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BESIDE = 0.3
"""Between the first and the last method at one number of shots, in doublings."""


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
