"""`methods` and `report`: what there is, and how it compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from steadyclip.commands.options import say, show


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods, or one method's knobs and recipe."""

    name: Positional[str | None] = None
    """A method."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.methods import get_method, methods
        from steadyclip.methods.base import knob_help

        if self.name is None:
            table = Table("method", "what it is", "source", box=None)
            for name, cls in methods().items():
                table.add_row(name, cls.summary, cls.source)
            show(table)
            return
        method = get_method(self.name)
        say(f"{method.name}: {method.summary}", f"source: {method.source}", "")
        knobs = Table("knob", "default", "meaning", box=None)
        for knob, text in knob_help(type(method)).items():
            value = method.knobs()[knob]
            knobs.add_row(knob, ",".join(map(str, value)) if isinstance(value, tuple) else str(value), text)
        show(knobs if knobs.rows else "no knobs")
        if method.recipe:
            say(
                "",
                "recipe: "
                + ", ".join(f"{k} {v}" for k, v in dataclasses.asdict(method.recipe).items() if v is not None),
            )


@dataclasses.dataclass(frozen=True)
class Report:
    """Make the table and one self-contained HTML page from records."""

    records: Positional[tuple[Path, ...]]
    """Record files, or folders that hold some (runs, for instance)."""
    out: Path = Path("report.html")
    """The page."""
    title: str | None = None
    """Heading of the page; by default the names of the data sets."""
    markdown: bool = False
    """Print the table as Markdown."""

    def __call__(self) -> None:
        from steadyclip.evaluation import load_records
        from steadyclip.report import main_table, write_page

        records = load_records(self.records)
        table = main_table(records)
        if self.markdown:
            print(table.markdown(), end="")
        else:
            show(table)
        say(f"page: {write_page(records, self.out, self.title)}")
