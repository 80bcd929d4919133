"""`bench` and `demo`: whole tables, with their trainings."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional

from steadyclip.commands.flags import keep_config
from steadyclip.commands.options import EMBEDDED, FOR_PHOTOS, check_values, named_values, show
from steadyclip.core.errors import UsageError
from steadyclip.core.extensions import DATA, MODELS, absent, load_extension
from steadyclip.core.limits import Count, Limits, Seed, Workers
from steadyclip.core.precision import AskedPrecision
from steadyclip.experiments.protocols import ProtocolName, make_plan
from steadyclip.experiments.settings import RecipeChoice
from steadyclip.training.config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Bench:
    """Train and score several methods by a protocol of the field: table, page, Markdown and CSV.

    The same command again continues where it stopped, and trains nothing that is finished.
    """

    common: ClassVar = (
        "protocol",
        "data",
        "methods",
        "shots",
        "seeds",
        "model",
        "out",
        "jobs",
    )
    examples: ClassVar = (
        "steadyclip bench base-to-new --data lab-things --methods zero-shot lora orthcr --seeds 1 2 3",
    )

    protocol: Positional[ProtocolName]
    """Which table."""
    methods: tuple[str, ...] = ("zero-shot", "linear-probe", "full", "lora")
    """Rows of the table: names of `steadyclip methods`, with changes in brackets: "lora[rank=4,layers=q:v,epochs=5]"
    (with the quotes, as shells read brackets), or @FILE with a row in each line: docs/rows.md."""
    data: tuple[str, ...] = ("lab-things",)
    """Data sets, as for `steadyclip train`, or the name of several: `suite` (twelve of steadyclip-lab) or `eleven`
    (those of the field). The last three protocols train on one."""
    targets: tuple[str, ...] | None = None
    """Where else to score: data sets, or domains of the data; by default its other domains, and what a built-in
    data set brings along (`lab-things`: the other sets of the laboratory)."""
    sources: tuple[str, ...] = ()
    """Domains to train on, where the data has several; all images of the others are then test images."""
    shots: tuple[Count, ...] | None = None
    """Training images per class; by default 16, for few-shot 1 2 4 8 16, for robust all."""
    seeds: tuple[Seed, ...] = (1, 2, 3)
    """Of the samples and the trainings: one training of every row for each."""
    wise_alphas: tuple[float, ...] = ()
    """Score methods that train the model's own weights also between the pretrained weights (0) and the trained ones
    (1): 0.25 0.5 0.75, for instance (WiSE-FT)."""
    model: str = EMBEDDED
    """Installed model, local directory or hub id, or open_clip:MODEL/PRETRAINED."""
    recipes: RecipeChoice = "auto"
    """`auto` trains `icons-small` by recipes of its own, others as published."""
    root: Path | None = None
    """Folder that holds the data sets."""
    out: Path = Path("runs/bench")
    """Folder for runs, records and pages; protocols that share it share their trainings."""
    jobs: Annotated[int, Limits(1, 1024)] = 1
    """Trainings side by side, each with its share of the cores; or at a time on Ray."""
    launcher: Literal["here", "slurm", "ray"] = "here"
    """`slurm` submits every cell as a job through submitit; `ray` runs them on the Ray cluster of RAY_ADDRESS, or on
    this machine."""
    slurm: tuple[str, ...] = ()
    """Settings of the jobs as name=value: timeout_min=120 slurm_partition=gpu gpus_per_node=1."""
    ray: tuple[str, ...] = ()
    """What each training takes as name=value: num_cpus=4 num_gpus=1; by default a core, and a GPU where there are
    some."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the forward pass, in training and in scoring."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    workers: Workers = 0
    """Processes that decode images, for each training."""
    progress: bool = True
    """Show what is done and the time left on standard error."""
    markdown: bool = False
    """Print the table as Markdown."""
    csv: bool = False
    """Print the table as CSV."""

    def __call__(self) -> None:
        from steadyclip.data.builtin import find_builtin
        from steadyclip.experiments.bench import run_bench
        from steadyclip.experiments.launchers import side_by_side, through_ray, through_submitit
        from steadyclip.experiments.rows import parse_rows
        from steadyclip.experiments.settings import settings_for
        from steadyclip.report import main_table, write_tables
        from steadyclip.report.reading import reading

        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UsageError(
                "the processes of torchrun share one training, and bench has many: start it without torchrun, with "
                "--jobs N for N at once."
            )
        if self.markdown and self.csv:
            raise UsageError("give --markdown or --csv, not both.")
        check_values("--seeds", self.seeds)
        check_values("--shots", self.shots)
        check_values("--data", self.data)
        check_values("--targets", self.targets)
        check_values("--sources", self.sources or None)
        rows = parse_rows(self.methods, settings_for(self.model, self.recipes))
        plan = make_plan(self.protocol, self.data, self.targets, self.shots, self.sources, self.root)
        for name, given in (("slurm", self.slurm), ("ray", self.ray)):
            if given and self.launcher != name:
                raise UsageError(f"--{name} is for --launcher {name}: give it too, or leave out --{name}.")
        if self.launcher == "slurm":
            launcher = through_submitit(named_values(self.slurm))
        elif self.launcher == "ray":
            launcher = through_ray(self.jobs, named_values(self.ray))
        else:
            launcher = side_by_side(self.jobs)
        config = TrainConfig(precision=self.precision, device=self.device, workers=self.workers, progress=self.progress)
        config.check()

        def log(line: str) -> None:
            print(line, file=sys.stderr if self.markdown or self.csv else sys.stdout, flush=True)

        if self.model == EMBEDDED and not all(find_builtin(sample.data.name) for sample, _ in plan):
            log(f"model: {FOR_PHOTOS}")
        result = run_bench(
            plan, rows, self.seeds, model=self.model, out=self.out, config=config, root=self.root, launcher=launcher,
            wise_alphas=self.wise_alphas, log=log,
        )  # fmt: skip
        keep_config("bench", self, self.out)
        if result.records:
            table = main_table(result.records)
            if self.markdown or self.csv:
                print(table.markdown() if self.markdown else table.csv(), end="")
            else:
                show(table)
                show(reading(table))
            stem = self.out / "-".join([self.protocol, *(Path(spec).name for spec in self.data)])
            page, *others = write_tables(result.records, stem, f"{self.protocol}: {', '.join(self.data)}")
            log(f"page: {page}\ntables: {', '.join(map(str, others))}")
        result.check()


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on the data and the model of steadyclip-lab: several methods, base-to-new, a table and a page."""

    out: Path = Path("runs/demo")
    """Folder for runs, records and the page; what is finished there is not trained again."""
    seeds: tuple[Seed, ...] = (1,)
    """One training of every method for each."""
    shots: Count = 16
    """Training images per class."""
    methods: tuple[str, ...] = ("zero-shot", "full[epochs=3]", "lora[epochs=3]", "dra[epochs=3]")
    """Rows of the table. Three epochs are enough to see what happens; recipes for the small model have ten."""
    jobs: Annotated[int, Limits(1, 1024)] = 1
    """Trainings side by side."""

    def __call__(self) -> None:
        for group, name in ((DATA, "lab-things"), (MODELS, EMBEDDED)):
            if load_extension(group, name) is None:
                raise UsageError(f"demo needs {name!r}: {absent(group, name)}.")
        Bench("base-to-new", **{**vars(self), "shots": (self.shots,)})()
