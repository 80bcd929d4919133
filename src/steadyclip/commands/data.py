"""`data`: what models are trained and scored with."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, arg, subcommand

from steadyclip.commands.options import DataOptions, SubsetName, print_json, say, show
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import expanded
from steadyclip.core.limits import Count, Seed
from steadyclip.core.words import counted

if TYPE_CHECKING:
    from steadyclip.data import ImageData


@dataclasses.dataclass(frozen=True)
class DataList:
    """List the field's data sets that `--data` takes by name, with --root."""

    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.data.catalog import catalog

        if self.json:
            print_json([dataclasses.asdict(entry) for entry in catalog()])
            return
        table = Table(box=None, header_style="bold")
        for column in ("name", "classes", "images", "domains", "license", "home"):
            number = column in ("classes", "images")
            table.add_column(column, justify="right" if number else "left", no_wrap=column in ("name", "home"))
        for entry in catalog():
            table.add_row(
                entry.name, f"{entry.classes:,}", f"{entry.total:,}", ", ".join(entry.domains),
                entry.license, entry.home,
            )  # fmt: skip
        show(table)


@dataclasses.dataclass(frozen=True)
class _AnyData(DataOptions):
    data: str = ""
    """One data set, of which every image is read; without it, all of the field's data sets are looked for in ROOT."""


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Say what is there, what is missing and what is broken: one data set, or all of the field's below a folder."""

    source: OmitArgPrefixes[_AnyData]
    folder: Annotated[Positional[Path | None], arg(metavar="ROOT")] = None
    """Folder that holds the field's data sets, as --root."""

    def __call__(self) -> None:
        root = self.folder or self.source.root
        if self.source.data:
            self._check_one(dataclasses.replace(self.source, root=root).load())
        else:
            self._check_all(root or os.environ.get("STEADYCLIP_DATA"))

    @staticmethod
    def _check_all(place: Path | str | None) -> None:
        from steadyclip.data import catalog

        if not place:
            raise UsageError("name the folder to check: steadyclip data check ROOT, or one data set with --data.")
        root = expanded(place)
        findings = catalog.check(root)
        there = [finding for finding in findings if finding.there]
        broken = [finding.entry.name for finding in there if not finding.complete]
        lying = [finding for finding in findings if finding.problems]
        say(*(line for finding in findings if lying or there for line in finding.lines()))
        say(*catalog.strangers(root)[:10])
        if not there:
            own = catalog.find(root.resolve().name)
            hint = (
                f"give the folder above it, {root.resolve().parent}" if own else "see docs/datasets.md for their names"
            )
            if lying:
                hint = f"extract the archives ({', '.join(finding.entry.name for finding in lying)})"
            raise DataError(
                f"{root} holds no folder of the field's data sets: {hint}. "
                f"A data set of your own: steadyclip data check --data {root}"
            )
        say(f"complete: {len(there) - len(broken)} of {len(findings)} data sets. No image was opened: "
            f"steadyclip data check --data NAME --root {root} reads every one.")  # fmt: skip
        if broken:
            raise DataError(f"{len(broken)} of {len(there)} data sets in {root} are incomplete: {', '.join(broken)}.")

    @staticmethod
    def _check_one(data: ImageData) -> None:
        say(*data.summary())
        report = data.check()
        for split, counts in report.counts.items():
            say(f"{split}: {sum(counts.values())} images, {min(counts.values())} to {max(counts.values())} per class")
        say(*report.notes)
        say(*(f"empty: class {name!r} has no {split} images" for split, name in report.empty))
        say(*(f"unreadable: {key}: {reason}" for key, reason in report.unreadable))
        say(*("the same image twice: " + ", ".join(f"{s}:{k}" for s, k in group) for group in report.duplicates[:20]))
        if (more := len(report.duplicates) - 20) > 0:
            say(f"and {more} more images that are there twice")
        if report.leaks:
            raise DataError(
                f"{counted(len(report.leaks), 'image')} of {data.name} found both in test and in training or "
                f"validation, for instance {' = '.join(key for _, key in report.leaks[0])}: remove one of each."
            )
        if not (report.unreadable or report.empty or report.duplicates):
            say("every image can be read, none is there twice, and no class is empty")


@dataclasses.dataclass(frozen=True)
class DataSample:
    """Print the few-shot sample that `train` would use."""

    source: OmitArgPrefixes[DataOptions]
    shots: Count = 16
    """Training images per class."""
    seed: Seed = 1
    """Of the sample."""
    subset: SubsetName = "all"
    """Classes."""
    json: bool = False
    """Print JSON instead of lines."""

    def __call__(self) -> None:
        task = self.source.load().task(shots=self.shots, seed=self.seed, subset=self.subset, verify=False)
        if self.json:
            print_json(task.split_json())
            return
        say(*task.summary())
        for split, images in (("train", task.train), ("val", task.val)):
            for key, label in zip(images.keys, images.labels, strict=True):
                print(f"{split}\t{task.classes[label]}\t{key}")


@dataclasses.dataclass(frozen=True)
class Data:
    """List, check or sample data sets."""

    action: OmitSubcommandPrefixes[
        Annotated[DataList, subcommand("list")]
        | Annotated[DataCheck, subcommand("check")]
        | Annotated[DataSample, subcommand("sample")]
    ]

    def __call__(self) -> None:
        self.action()
