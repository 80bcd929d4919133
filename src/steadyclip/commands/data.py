"""`data` and `pretrain`: what models are made and scored with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional, subcommand

from steadyclip.commands.options import DataOptions, SubsetName, say
from steadyclip.training.pretrain.config import PretrainConfig


@dataclasses.dataclass(frozen=True)
class DataBuild:
    """Build an embedded data set into the cache; nothing is done if it is there."""

    name: Positional[Literal["icons"]] = "icons"
    """Which."""
    sheet: Path | None = None
    """Also write a contact sheet of every class to look at (.png)."""

    def __call__(self) -> None:
        from steadyclip.data import icons

        say(f"built: {icons.build()}")
        if self.sheet:
            icons.contact_sheet(self.sheet)
            say(f"contact sheet: {self.sheet}")


@dataclasses.dataclass(frozen=True)
class DataCheck:
    """Read every picture of a data set and say what is there, what is broken, and what stands in two splits."""

    source: OmitArgPrefixes[DataOptions]

    def __call__(self) -> None:
        data = self.source.load()
        say(*data.summary())
        report = data.check()
        for split, counts in report.counts.items():
            say(f"{split}: {sum(counts.values())} images, {min(counts.values())} to {max(counts.values())} per class")
        say(*report.notes)
        say(*(f"empty: class {name!r} has no {split} images" for split, name in report.empty))
        say(*(f"unreadable: {key}: {reason}" for key, reason in report.unreadable))
        say(*("the same picture twice: " + ", ".join(f"{s}:{k}" for s, k in group) for group in report.duplicates[:20]))
        if report.leaks:
            say(f"{len(report.leaks)} pictures stand both in test and in training or validation.")
        if not (report.unreadable or report.empty or report.duplicates):
            say("no problems found")


@dataclasses.dataclass(frozen=True)
class DataSample:
    """Print the few-shot sample that `train` would use."""

    source: OmitArgPrefixes[DataOptions]
    shots: int = 16
    """Training images per class."""
    seed: int = 1
    """Of the sample."""
    subset: SubsetName = "all"
    """Classes."""
    json: bool = False
    """Print JSON instead of lines."""

    def __call__(self) -> None:
        import json

        task = self.source.load().task(shots=self.shots, seed=self.seed, subset=self.subset, verify=False)
        if self.json:
            print(json.dumps(task.split_json(), indent=1, ensure_ascii=False))
            return
        say(*task.summary())
        for split, images in (("train", task.train), ("val", task.val)):
            for key, label in zip(images.keys, images.labels, strict=True):
                print(f"{split}\t{task.classes[label]}\t{key}")


@dataclasses.dataclass(frozen=True)
class Data:
    """Build, check or sample data sets."""

    action: OmitSubcommandPrefixes[
        Annotated[DataBuild, subcommand("build")]
        | Annotated[DataCheck, subcommand("check")]
        | Annotated[DataSample, subcommand("sample")]
    ]

    def __call__(self) -> None:
        self.action()


@dataclasses.dataclass(frozen=True)
class Pretrain:
    """Train a small CLIP from image-text pairs; the same command again resumes."""

    config: OmitArgPrefixes[PretrainConfig]

    def __call__(self) -> None:
        from steadyclip.training.pretrain import pretrain

        pretrain(self.config, log=say)
