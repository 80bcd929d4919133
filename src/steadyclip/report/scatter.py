"""What was gained against what was lost, a dot for each method: under shift, and on what was not trained on."""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from steadyclip.evaluation.forgetting import forgetting, held_out
from steadyclip.evaluation.records import Record
from steadyclip.report import chart
from steadyclip.report.cells import Section, grouped
from steadyclip.report.chart import COLORS, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """Both in percent, or x as a share."""

    x: float
    y: float


def shift(section: Section, styles: Mapping[str, Style]) -> str:
    """An ``<svg>`` element: mean accuracy over the domains of a shift against accuracy in distribution, small dots
    for seeds, averaged weights as a curve from the frozen model to the trained one; nothing for a section without a
    shift or without trainings."""
    sets = {_place(r) for r in _records(section) if r.role == "ood"}
    dots = {row.label: found for row in section.rows if (found := _shifted(row.records, sets))}
    rows = [row for row in section.rows if row is not section.baseline and row.label in dots]
    if not rows:
        return ""
    origin = _mean(dots.get(section.baseline.label, ())) if section.baseline else None
    single = [row for row in rows if row.alpha is None]
    curves = grouped((row for row in rows if row.alpha is not None), lambda row: row.series)
    names = list(dict.fromkeys(row.series for row in rows))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        chart.plain(axes)
        for name, points in curves.items():
            ordered = sorted(points, key=lambda row: row.alpha or 0.0)
            # its ends are the frozen model and the trained one
            end = _mean([dot for row in single if row.series == name for dot in dots[row.label]])
            found = [mean for mean in (origin, *(_mean(dots[row.label]) for row in ordered), end) if mean]
            look = {"linewidth": 1.1, "marker": ".", "markersize": 4, "alpha": 0.8}
            axes.plot([p.x for p in found], [p.y for p in found], color=styles[name].color, **look)
        for row in single:
            _dot(axes, dots[row.label], styles[row.label])
        axes.set_xlabel("in distribution, top-1 accuracy, %")
        axes.set_ylabel("under shift, mean top-1 accuracy, %")
        _finish(figure, [axes], origin, section, names, styles, bool(curves))

    height = 3.2 + chart.legend_height([*names, *_lines(section, bool(curves))])
    label = f"Accuracy under shift against accuracy in distribution: {section.title}"
    return chart.draw(f"shift {section.title}", label, height, paint)


def drift(section: Section, styles: Mapping[str, Style]) -> str:
    """An ``<svg>`` element: change of accuracy on held-out classes and data against drift of either tower there, both
    from the frozen model; nothing where drift was not measured or there is no frozen model to compare with."""
    if section.baseline is None:
        return ""
    frozen, sets = section.baseline.records, {_place(r) for r in _records(section) if held_out(r)}
    rows = [row for row in section.rows if row is not section.baseline and row.alpha is None]
    dots = {row.label: found for row in rows if (found := _drifted(row.records, frozen, sets))}
    if not dots:
        return ""

    def paint(figure: Figure) -> None:
        both: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
        for tower, axes in enumerate(both):
            chart.plain(axes)
            for name, points in dots.items():
                _dot(axes, [towers[tower] for towers in points], styles[name])
            axes.set_xlabel(f"drift of {('image', 'text')[tower]} features")
        both[0].set_ylabel("change on held-out tests, points")
        _finish(figure, both, Point(0.0, 0.0), section, list(dots), styles)

    height = 2.7 + chart.legend_height([*dots, *_lines(section)])
    label = f"Change of held-out accuracy against drift: {section.title}"
    return chart.draw(f"drift {section.title}", label, height, paint)


def _dot(axes: Axes, points: Sequence[Point], style: Style) -> None:
    mean = _mean(points)
    if mean is None:
        return
    if len(points) > 1:
        axes.scatter(*zip(*points, strict=True), s=9, color=style.color, alpha=0.6, linewidths=0)
    look = {"marker": style.marker, "edgecolors": COLORS["paper"], "linewidths": 0.8, "zorder": 3}
    axes.scatter(*mean, s=46, color=style.color, **look)


_WISE = "weight averages"


def _finish(
    figure: Figure,
    each: Sequence[Axes],
    origin: Point | None,
    section: Section,
    names: Sequence[str],
    styles: Mapping[str, Style],
    curves: bool = False,
) -> None:
    """The baseline as a cross, room around the dots, the legend."""
    handles = [chart.key(styles[name], name) for name in names]
    for axes in each:
        if origin is not None:
            axes.axvline(origin.x, color=COLORS["quiet"], linestyle=chart.DASHED, linewidth=1, zorder=1)
            axes.axhline(origin.y, color=COLORS["quiet"], linestyle=chart.DASHED, linewidth=1, zorder=1)
        axes.margins(0.09)
        axes.locator_params(nbins=5 if len(each) == 1 else 4)
    if origin is not None and section.baseline is not None:
        handles.insert(0, chart.dashes(section.baseline.label))
    if curves:
        quiet = Style(COLORS["quiet"], ".")
        handles.append(chart.key(quiet, _WISE, linestyle="-", linewidth=1.1, markeredgecolor=COLORS["quiet"]))
    chart.legend(figure, handles)


def _lines(section: Section, curves: bool = False) -> list[str]:
    """Entries of the legend that are not dots."""
    return [*([section.baseline.label] if section.baseline else []), *([_WISE] if curves else [])]


def _shifted(records: Sequence[Record], sets: set[Hashable]) -> list[Point]:
    """In distribution and under shift, a point for each run that was scored on all of ``sets``."""
    points = []
    for run in grouped(records, lambda r: r.seed).values():
        inside = [r.metrics.top1 for r in run if r.role == "id" and r.metrics]
        outside = {_place(r): r.metrics.top1 for r in run if r.role == "ood" and r.metrics}
        if inside and outside and len(outside) == len(sets):
            points.append(Point(100 * statistics.fmean(inside), 100 * statistics.fmean(outside.values())))
    return points


def _drifted(records: Sequence[Record], frozen: Sequence[Record], sets: set[Hashable]) -> list[tuple[Point, Point]]:
    """Drift of the image and of the text tower against forgetting, for each run that was scored on all of ``sets``."""
    points = []
    for run in grouped(records, lambda r: r.seed).values():
        held = [(r, r.drift) for r in run if held_out(r) and r.drift is not None and r.metrics is not None]
        lost = forgetting([r for r, _ in held], frozen) if {_place(r) for r, _ in held} == sets else None
        if lost is not None:
            moved = (statistics.fmean(1 - getattr(d, tower).cka for _, d in held) for tower in ("image", "text"))
            image, text = (Point(x, 100 * lost) for x in moved)
            points.append((image, text))
    return points


def _records(section: Section) -> list[Record]:
    return [r for row in section.rows for r in row.records]


def _place(r: Record) -> Hashable:
    return r.data.name, r.data.subset, r.data.domain, r.data.templates


def _mean(points: Sequence[Point]) -> Point | None:
    return Point(*(statistics.fmean(axis) for axis in zip(*points, strict=True))) if points else None
