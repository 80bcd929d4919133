"""`report`: what became of a run, or of a grid, from its records."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from steadyclip.commands.options import say, show, tell
from steadyclip.core.limits import Limits


@dataclasses.dataclass(frozen=True)
class Report:
    """Say what became of a run: the verdict, the table and one self-contained page, from its records."""

    common: ClassVar = (
        "records",
        "out",
        "require",
        "max_loss",
    )
    examples: ClassVar = (
        "steadyclip report runs/photos",
        "steadyclip report runs/photos --require better --max-loss 2",
        "steadyclip report runs/bench --out table.html --results table.csv",
    )

    records: Positional[tuple[Path, ...]]
    """Runs that were evaluated, folders of grids, or record files. Of a single run the verdict is printed first."""
    out: Path = Path("report.html")
    """The page."""
    title: str | None = None
    """Heading of the page; by default the names of the data sets."""
    results: Path | None = None
    """A CSV file to write as well, a line for each evaluation, to keep in a repository; the paired differences go into
    a second one, FILE-differences.csv."""
    charts: Path | None = None
    """A folder to write each chart of the page to, as an SVG file."""
    markdown: bool = False
    """Print the table as Markdown."""
    require: Literal["better"] | None = None
    """`better`: exit with code 1 unless the run is better on what it was trained on."""
    max_loss: Annotated[float, Limits(0, 100)] | None = None
    """Exit with code 1 if the rest may have lost more percent points than this: if the lower end of its 95 % interval
    is below, or it was not measured."""

    def __call__(self) -> None:
        from steadyclip.core.files import write_atomic
        from steadyclip.evaluation import load_records
        from steadyclip.report import main_table, need_verdict, verdict, write_charts, write_page
        from steadyclip.report.classes import class_rows, classes_csv, confusions_csv, find_answers
        from steadyclip.report.reading import reading
        from steadyclip.report.results import differences, results

        records = load_records(self.records)
        table = main_table(records)
        held = self.require is not None or self.max_loss is not None
        found = need_verdict(records) if held else verdict(records)
        if found:
            tell(found.text)
        if self.markdown:
            print(table.markdown(), end="")
        else:
            show(table)
            if not found:
                show(reading(table))
        run = next((path for path in self.records if len(self.records) == 1 and (path / "run.json").is_file()), None)
        say(f"page: {write_page(records, self.out, self.title, run)}")
        if found and (rows := class_rows(found)):
            files = {"classes": classes_csv(rows)}
            if answers := find_answers(self.records, found.own.pairs[0][1]):
                files["confusions"] = confusions_csv(answers)
            for name, text in files.items():
                file = self.out.with_name(f"{self.out.stem}-{name}.csv")
                write_atomic(file, text.encode())
                say(f"{name}: {file}")
        for file in write_charts(table, self.charts) if self.charts else ():
            say(f"chart: {file}")
        if self.results:
            write_atomic(self.results, results(records).encode())
            say(f"results: {self.results}")
            if table.differences:
                paired = self.results.with_name(f"{self.results.stem}-differences.csv")
                write_atomic(paired, differences(table).encode())
                say(f"differences: {paired}")
        if found and held:
            found.require(self.require == "better", self.max_loss)
