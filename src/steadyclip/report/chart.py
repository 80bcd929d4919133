"""Base and new accuracy of each method as one inline SVG that follows the colours of the page.

The drawing is deterministic: no date, fixed ids, text as text. Colours that stand for CSS variables are replaced after
drawing, so that dark mode and print need no second picture.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from typing import TYPE_CHECKING, Any

from steadyclip.report.cells import HALVES, Cell, Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {"base": "#b05e01", "new": "#b05e02", "ink": "#b05e03", "quiet": "#b05e04", "paper": "#b05e05"}
_BAR = 0.36


def bars(section: Section) -> str:
    """An ``<svg>`` element: two bars for each method, whiskers for the spread, dashed lines at the baseline."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    # ids are hashes of content and salt: two charts of one page must not share them
    settings: Any = {
        "svg.hashsalt": f"steadyclip {section.title}",
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 9,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.7, 0.75 + 0.52 * len(section.rows)), layout="constrained")
        axes = figure.add_subplot()
        for position, row in enumerate(section.rows):
            for half, cell, offset in zip(HALVES, row.cells, (-_BAR / 2, _BAR / 2), strict=False):
                _bar(axes, position + offset, cell, _COLOURS[half])
        handles: list[Any] = [Patch(color=_COLOURS[half], label=half) for half in HALVES]
        if section.baseline is not None:
            for half, cell in zip(HALVES, section.baseline.cells, strict=False):
                if cell.value is not None:
                    axes.axvline(cell.value, color=_COLOURS[half], linestyle=(0, (3, 2)), linewidth=1, zorder=0.5)
            label = section.baseline.label
            handles.append(Line2D([], [], color=_COLOURS["quiet"], linestyle=(0, (3, 2)), linewidth=1, label=label))
        axes.set_yticks(range(len(section.rows)))
        labels = [textwrap.fill(row.label, 18) for row in section.rows]
        axes.set_yticklabels(labels, color=_COLOURS["ink"], parse_math=False)
        axes.invert_yaxis()
        axes.set_xlim(0, _limit(section))
        axes.set_xlabel("top-1 accuracy, %", color=_COLOURS["quiet"])
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelcolor=_COLOURS["quiet"])
        axes.spines[:].set_visible(False)
        legend = figure.legend(
            handles=handles, loc="outside upper left", ncols=3, frameon=False, labelcolor=_COLOURS["ink"]
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), f"Bars of base and new accuracy: {section.title}")


def _bar(axes: Axes, y: float, cell: Cell, colour: str) -> None:
    if cell.value is None:
        axes.text(0.5, y, "no score", va="center", color=_COLOURS["quiet"], fontsize=8)
        return
    axes.barh(y, cell.value, _BAR * 0.92, color=colour)
    spread = cell.spread or 0.0
    if spread:
        axes.errorbar(cell.value, y, xerr=spread, color=_COLOURS["ink"], linewidth=1, capsize=2)
    behind = {"facecolor": _COLOURS["paper"], "edgecolor": "none", "pad": 1}  # keeps the dashed lines off the number
    number = f"{cell.value:.1f}"
    axes.text(cell.value + spread + 0.9, y, number, va="center", color=_COLOURS["ink"], fontsize=8, bbox=behind)


def _limit(section: Section) -> float:
    """Bars start at 0; the axis ends where the longest bar has room for its number, at 100 at most plus that room."""
    ends = [
        cell.value + (cell.spread or 0.0) for row in section.rows for cell in row.cells[:2] if cell.value is not None
    ]
    return max(ends, default=100.0) * 1.02 + 6


def _inline(svg: str, label: str) -> str:
    """The ``<svg>`` element alone, sized by the page, its colours as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z_.]+_\d+"', "", svg)  # figure_1, axes_1, ...: nothing refers to them
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for name, colour in _COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{html.escape(label)}"', 1)
