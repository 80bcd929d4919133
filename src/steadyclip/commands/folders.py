"""`runs`: what was trained so far."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from steadyclip.commands.options import print_json, say, show, tell
from steadyclip.core.errors import DataError


@dataclasses.dataclass(frozen=True)
class RunsList:
    """List the runs below a folder, the newest first, each with its verdict."""

    folder: Positional[Path] = Path("runs")
    """Where to look."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.evaluation.records import Run

        if not self.folder.is_dir():
            raise DataError(f"there is no folder {self.folder}: steadyclip train and tune make runs/.")
        found = [(file.parent, Run.read(file)) for file in sorted(self.folder.rglob("run.json"))]
        found = [each for each in found if not (each[0].parent / "run.json").exists()]  # less halves of tune
        if not found:
            raise DataError(f"{self.folder} holds no run: steadyclip train and tune make them.")
        found.sort(key=lambda each: each[1].created, reverse=True)
        rows = [_row(folder, run) for folder, run in found]
        if self.json:
            print_json(rows)
            return
        table = Table(box=None, header_style="bold")
        for column in rows[0]:
            table.add_column(column.replace("_", " "), overflow="fold", no_wrap=column not in ("run", "method"))
        for row in rows:
            table.add_row(*("" if value is None else str(value) for value in row.values()))
        show(table)


def _row(folder: Path, run: Any) -> dict[str, Any]:
    from steadyclip.report import verdict
    from steadyclip.report.cells import signed

    row = {
        "run": str(folder), "method": run.method.label, "data": run.task.name,
        "shots": "all" if run.task.shots is None else run.task.shots, "seed": run.seed,
        "steps": run.results.steps if run.results else None, "top1": None, "change": None, "rest": None,
        "verdict": "not evaluated" if run.finished else "not finished",
    }  # fmt: skip
    if any((folder / "records").glob("*.json")) and (found := verdict(folder)):
        row["verdict"] = found.own.outcome
        if found.own.difference:
            row |= {"top1": f"{found.own.after:.1f}", "change": signed(found.own.difference.mean)}
        if found.rest.difference:
            row["rest"] = signed(found.rest.difference.mean)
    return row


@dataclasses.dataclass(frozen=True)
class RunsShow:
    """Show what one run was made from, and what became of it."""

    run: Positional[Path]
    """Run folder."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.evaluation.records import Run
        from steadyclip.report import verdict
        from steadyclip.training.run import identity

        run = Run.read(self.run / "run.json")
        task = run.task
        about = {
            "created": run.created, "completed": run.completed or "not finished", "model": run.model.name,
            "method": run.method.label, "data": f"{task.name}, {len(task.classes)} classes ({task.subset})",
            "images": f"{task.train_images} to train on, {task.val_images} to validate",
        }  # fmt: skip
        if run.results:
            steps, seconds = run.results.steps, run.results.seconds
            about["training"] = f"{steps} steps, {seconds:.0f} s on {run.results.device}"
        decided = {name: value for name, value in identity(run).items() if value is not None}
        for name in ("task.classes", "task.templates", "method.name"):
            decided.pop(name, None)
        table = Table(box=None, show_header=False)
        for name, value in {**about, **decided}.items():
            table.add_row(name, str(value))
        show(table)
        if any((self.run / "records").glob("*.json")) and (found := verdict(self.run)):
            say("")
            tell(found.text)


@dataclasses.dataclass(frozen=True)
class RunsCompare:
    """Compare two runs: settings that differ, the paired difference on the same test images, images that changed."""

    first: Positional[Path]
    """Run folder."""
    second: Positional[Path]
    """Run folder that was evaluated on the same data."""
    out: Path | None = None
    """Also write a page with the images that changed (.html)."""
    data: str | None = None
    """The data that was evaluated on, as for `steadyclip evaluate`: the page then shows the images themselves."""
    root: Path | None = None
    """Folder that holds the field's data sets."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.data import load_data
        from steadyclip.report.cells import signed
        from steadyclip.report.compare import compare, write_comparison

        found = compare(self.first, self.second)
        settings = Table("differs", str(self.first), str(self.second), box=None)
        for row in found.settings:
            settings.add_row(*row)
        show(settings if found.settings else "no setting that decides the result differs")
        tests = Table("test images", "first", "second", "difference, 95 % interval", "gained", "lost", box=None)
        for test in found.tests:
            d = test.difference
            tests.add_row(
                f"{test.name} ({test.images})", f"{test.first:.1f}", f"{test.second:.1f}",
                f"{signed(d.mean)} [{signed(d.low)}, {signed(d.high)}]{'' if d.sure else ', may be chance'}",
                *("unknown" if rows is None else str(len(rows)) for rows in (test.gained, test.lost)),
            )  # fmt: skip
        show(tests)
        if self.out:
            data = load_data(self.data, root=self.root) if self.data else None
            say(f"page: {write_comparison(found, self.out, data)}")


@dataclasses.dataclass(frozen=True)
class Runs:
    """List, show or compare runs."""

    action: OmitSubcommandPrefixes[
        Annotated[RunsList, subcommand("list")]
        | Annotated[RunsShow, subcommand("show")]
        | Annotated[RunsCompare, subcommand("compare")]
    ]

    def __call__(self) -> None:
        self.action()
