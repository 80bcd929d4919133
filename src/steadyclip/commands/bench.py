"""`bench` and `demo`: the tables of the field, from trainings to page."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from steadyclip.commands.options import say, show
from steadyclip.core.errors import UsageError
from steadyclip.core.extensions import DATA, MODELS, absent, load_extension
from steadyclip.core.precision import Precision
from steadyclip.training.config import TrainConfig

ProtocolName = Literal["base-to-new", "few-shot", "cross-dataset", "domain-generalization", "robust"]


@dataclasses.dataclass(frozen=True)
class Bench:
    """Train and score several methods by a protocol of the field: table, page, Markdown and CSV.

    The same command again goes on where it stopped, and trains nothing where it is finished.
    """

    protocol: Positional[ProtocolName]
    """Which table."""
    methods: tuple[str, ...] = ("zero-shot", "linear-probe", "full", "lora")
    """Rows of the table: names of `steadyclip methods`, with changes in brackets: "lora[rank=4,layers=q:v,epochs=5]"
    (with the quotes, as shells read brackets), or @FILE with a row in each line: docs/rows.md."""
    data: tuple[str, ...] = ("icons",)
    """Data sets, as for `steadyclip train`; the last three protocols train on one."""
    targets: tuple[str, ...] | None = None
    """Where else to score: data sets, or domains of the data; by default its other domains, and what a built-in
    data set brings along (`icons`: the other icon sets)."""
    sources: tuple[str, ...] = ()
    """Domains to train on, where the data has several; all images of the others are then test images."""
    shots: tuple[int, ...] | None = None
    """Training images per class; by default 16, for few-shot 1 2 4 8 16, for robust all."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of the samples and the trainings: one training of every row for each."""
    wise_alphas: tuple[float, ...] = ()
    """Score methods that train the model's own weights also between the pretrained weights (0) and the trained ones
    (1): 0.25 0.5 0.75, for instance (WiSE-FT)."""
    model: str = "icons-tiny"
    """Installed model, local directory or hub id, or open_clip:MODEL/PRETRAINED."""
    recipes: Literal["auto", "published"] = "auto"
    """`auto` trains `icons-tiny` by recipes that were chosen for it, others as published."""
    root: Path | None = None
    """Folder that holds the data sets."""
    out: Path = Path("runs/bench")
    """Folder for runs, records and pages; protocols that share it share their trainings."""
    jobs: int = 1
    """Trainings side by side, each with its share of the cores."""
    launcher: Literal["here", "slurm"] = "here"
    """`slurm` submits every cell as a job through submitit."""
    slurm: tuple[str, ...] = ()
    """Settings of the jobs as name=value: timeout_min=120 slurm_partition=gpu gpus_per_node=1."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass, in training and in scoring."""
    device: Literal["auto", "cpu"] = "auto"
    """`auto` takes the accelerator if there is one."""
    workers: int = 0
    """Processes that decode images, for each training."""
    progress: bool = True
    """Show what is done and the time left on standard error."""
    markdown: bool = False
    """Print the table as Markdown."""
    csv: bool = False
    """Print the table as CSV."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.experiments.bench import run_bench
        from steadyclip.experiments.choose import choose, refuse_repeated
        from steadyclip.experiments.grid import one_by_one
        from steadyclip.experiments.launchers import side_by_side, through_submitit
        from steadyclip.experiments.rows import pairs, parse_rows
        from steadyclip.experiments.settings import settings_for
        from steadyclip.report import main_table, write_tables

        if self.markdown and self.csv:
            raise UsageError("give --markdown or --csv, not both.")
        if not self.seeds:
            raise UsageError("--seeds needs at least one.")
        if min(self.seeds) < 0:  # the sample of -1 would be that of 1
            raise UsageError(f"--seeds must be 0 or more, not {min(self.seeds)}.")
        if self.shots == ():
            raise UsageError("--shots needs at least one number, or is left out.")
        refuse_repeated("--seeds", self.seeds)
        rows = parse_rows(self.methods, settings_for(self.model, self.recipes))
        root = self.root
        protocol = choose(
            self.protocol, self.data, lambda data: load_data(data.name, sources=data.sources, root=root), self.targets,
            self.shots, self.sources,
        )  # fmt: skip
        jobs = {name: int(value) if value.isdecimal() else value for name, value in pairs(self.slurm).items()}
        if self.launcher == "slurm":
            launcher, at_once = through_submitit(jobs), 10**6
        else:
            launcher, at_once = (one_by_one if self.jobs == 1 else side_by_side(self.jobs)), self.jobs
        config = TrainConfig(precision=self.precision, device=self.device, workers=self.workers, progress=self.progress)
        config.check()
        log = _note if self.markdown or self.csv else say
        result = run_bench(
            protocol, rows, self.seeds, model=self.model, out=self.out, config=config, root=root, launcher=launcher,
            side_by_side=at_once, wise_alphas=self.wise_alphas, log=log,
        )  # fmt: skip
        if result.records:
            table = main_table(result.records)
            if self.markdown or self.csv:
                print(table.markdown() if self.markdown else table.csv(), end="")
            else:
                show(table)
            stem = self.out / "-".join([self.protocol, *(Path(spec).name for spec in self.data)])
            page, *others = write_tables(result.records, stem, f"{self.protocol}: {', '.join(self.data)}")
            log(f"page: {page}", f"tables: {', '.join(map(str, others))}")
        result.check()


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on the data and the model of steadyclip-lab: several methods, base-to-new, a table and a page."""

    out: Path = Path("runs/demo")
    """Folder for runs, records and the page; what is finished there is not trained again."""
    seeds: tuple[int, ...] = (1,)
    """One training of every method for each."""
    shots: int = 16
    """Training images per class."""
    methods: tuple[str, ...] = ("zero-shot", "linear-probe", "full", "lora")
    """Which, in this order."""
    jobs: int = 1
    """Trainings side by side."""

    def __call__(self) -> None:
        for group, name in ((DATA, "icons"), (MODELS, "icons-tiny")):
            if load_extension(group, name) is None:
                raise UsageError(f"demo needs {name!r}: {absent(group, name)}.")
        Bench(
            "base-to-new", methods=self.methods, shots=(self.shots,), seeds=self.seeds, out=self.out, jobs=self.jobs
        )()


def _note(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
