"""`methods`, `report`, `demo`: what there is, and how it compares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tyro.conf import Positional

from steadyclip.commands.options import say, show
from steadyclip.training.config import TrainConfig


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


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on the embedded data and model: several methods, base-to-new, a table and a page."""

    out: Path = Path("runs/demo")
    """Folder for runs, records and the page; what is finished there is not trained again."""
    seeds: tuple[int, ...] = (1,)
    """One training of every method for each."""
    shots: int = 16
    """Training images per class."""
    methods: tuple[str, ...] = ("zero-shot", "linear-probe", "full", "lora")
    """Which, in this order."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.experiments.base_to_new import Plan, base_to_new
        from steadyclip.experiments.demo import PLANS
        from steadyclip.methods import get_method
        from steadyclip.report import main_table, write_page

        plans = [PLANS.get(name) or Plan(get_method(name).name) for name in self.methods]
        data = load_data("icons")
        say(*data.summary())
        # a crop of 8 % of a photo shows something; of a drawing it shows a line or nothing
        config = TrainConfig(cache=self.out / "features", smallest_crop=0.6)
        records = base_to_new(
            "icons-tiny", data, plans, shots=self.shots, seeds=self.seeds, out=self.out, config=config, log=say
        )
        show(main_table(records))
        say(f"page: {write_page(records, self.out / 'report.html', 'steadyclip demo: base to new on icons')}")
