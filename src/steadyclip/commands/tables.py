"""`methods` and `report`: what there is, and how it compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from steadyclip.commands.options import say, show


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods, or what one is: its facts, recipe and knobs."""

    name: Positional[str | None] = None
    """A method, or path/to/mine.py:Mine."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.experiments.rows import parse_row
        from steadyclip.methods import methods
        from steadyclip.methods.knobs import knob_help
        from steadyclip.methods.registry import origin_of

        if self.name is None:
            table = Table("method", "what it is", "source", box=None)
            for name, cls in methods().items():
                table.add_row(name, cls.summary, origin_of(name) or cls.source)
            show(table)
            return
        row = parse_row(self.name)
        method = row.method
        say(f"{method.name}: {method.summary}", f"source: {method.source}")
        if origin := origin_of(method.name):
            say(f"comes with {origin}")
        facts = {
            "learns": method.learns, "gradient steps": row.recipe is not None, "mergeable": method.mergeable,
            "trains the model's own weights": method.own_weights, "compares the images of a batch": method.whole_batch,
        }  # fmt: skip
        say(f"facts: {', '.join(f'{fact}: {str(holds).lower()}' for fact, holds in facts.items())}")
        if row.recipe:
            recipe = {key: value for key, value in dataclasses.asdict(row.recipe).items() if value is not None}
            say(f"recipe: {', '.join(f'{key}={value}' for key, value in recipe.items())}")
        knobs = Table("knob", "default", "meaning", box=None)
        meaning = knob_help(method)
        for knob, value in method.knobs().items():
            text = ":".join(map(str, value)) if isinstance(value, list) else str(value)
            knobs.add_row(knob, text, meaning.get(knob, "pieces, as text"))
        say("")
        show(knobs if knobs.rows else "no knobs")


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
