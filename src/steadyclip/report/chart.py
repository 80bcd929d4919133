"""What all charts share: an inline SVG that follows the colors of the page, and a look for each method.

The drawing is deterministic: no date, fixed ids, text as text. Colors that stand for CSS variables are replaced after
drawing, so that dark mode and print need no second image.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from steadyclip.report.cells import Cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SERIES = tuple(f"c{i}" for i in range(1, 11))
COLORS = {name: f"#b05e{i:02x}" for i, name in enumerate(("base", "new", "ink", "quiet", "line", "paper", *_SERIES), 1)}
"""CSS variable of the page -> the color that stands for it while drawing."""
DASHED = (0, (3, 2))
WIDTH = 4.1
"""Inches; a phone shows the chart at about its nominal size."""
_ROW = 0.2
"""Inches of one line of the legend."""

# as many as no divisor in common with the colors: 70 methods look different, also in black and white
_MARKERS = "os^DvPX"


class Style(NamedTuple):
    """How a method looks in every chart of a page."""

    color: str
    marker: str


def styles(labels: Iterable[str]) -> dict[str, Style]:
    """A look for each label, by order of first appearance."""
    return {
        label: Style(COLORS[_SERIES[i % len(_SERIES)]], _MARKERS[i % len(_MARKERS)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


def whisker(cell: Cell) -> tuple[float, str]:
    """Half its length and its color: the spread over seeds, or in gray what one run has, the interval over images."""
    if cell.spread is not None:
        return cell.spread, COLORS["ink"]
    return cell.interval or 0.0, COLORS["quiet"]


def draw(name: str, label: str, height: float, paint: Callable[[Figure], None]) -> str:
    """The ``<svg>`` element of what ``paint`` puts into a figure ``height`` inches high.

    Args:
        name: tells the charts of one page apart, so that their ids differ.
        label: what it is, for those who cannot see it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {  # ids are hashes of content and salt
        "svg.hashsalt": f"steadyclip {name}",
        "svg.fonttype": "none",
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.labelcolor": COLORS["quiet"],
        "axes.edgecolor": COLORS["line"],
        "xtick.color": COLORS["quiet"],
        "ytick.color": COLORS["quiet"],
        "grid.color": COLORS["line"],
        "grid.linewidth": 0.6,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        paint(figure)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return _inline(buffer.getvalue(), label)


def plain(axes: Axes) -> None:
    """No frame and no ticks: light lines to read values by."""
    axes.spines[:].set_visible(False)
    axes.tick_params(which="both", length=0)
    axes.grid(True)
    axes.set_axisbelow(True)


def key(style: Style, label: str, **more: Any) -> Any:
    """The entry of a method in the legend."""
    from matplotlib.lines import Line2D

    look = {"linestyle": "none", "markersize": 6, "markeredgecolor": COLORS["paper"], **more}
    return Line2D([], [], color=style.color, marker=style.marker, label=label, **look)


def dashes(label: str) -> Any:
    """The entry of the baseline."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=COLORS["quiet"], linestyle=DASHED, linewidth=1, label=label)


def _columns(labels: Sequence[str]) -> int:
    """How many entries fit beside each other."""
    return max(1, min(4, len(labels), 52 // (6 + max(map(len, labels)))))


def legend_height(labels: Sequence[str]) -> float:
    """Inches that ``legend`` takes."""
    return _ROW * math.ceil(len(labels) / _columns(labels)) + 0.1


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Above the axes, in rows."""
    shown = figure.legend(
        handles=list(handles),
        loc="outside upper left",
        ncols=_columns([str(handle.get_label()) for handle in handles]),
        frameon=False,
        labelcolor=COLORS["ink"],
        columnspacing=1.2,
        handletextpad=0.5,
    )
    for text in shown.get_texts():
        text.set_parse_math(False)


def _inline(svg: str, label: str) -> str:
    """The ``<svg>`` element alone, sized by the page, its colors as CSS variables."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(line2d|[A-Za-z_.]+)_\d+"', "", svg)  # figure_1, axes_1, ...: nothing refers to them
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    for name, color in COLORS.items():
        svg = svg.replace(color, f"var(--{name})")
    return svg.replace("<svg", f'<svg class="chart" role="img" aria-label="{html.escape(label)}"', 1)
