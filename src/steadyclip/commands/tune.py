"""`tune`: the whole job for one's own images."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.flags import keep_config
from steadyclip.commands.options import EMBEDDED, DataOptions, model_for, one_row, say, show, tell
from steadyclip.core.limits import Count, Seed, Workers
from steadyclip.core.precision import AskedPrecision, best_device


@dataclasses.dataclass(frozen=True)
class _Images(DataOptions):
    data: Positional[str]
    """Your images: a folder `class/image`, a .csv or .parquet table, or a built-in name (`lab-things`)."""


@dataclasses.dataclass(frozen=True)
class Tune:
    """Fine-tune on your own images, from the first check to a verdict: is it better, and what did it cost?

    Reads every image, says what will be done and how long it takes, trains, scores the result and the frozen model on
    images that neither has seen, and ends in a verdict. The same command again resumes.
    """

    common: ClassVar = (
        "data",
        "model",
        "method",
        "shots",
        "rest",
        "out",
        "dry_run",
    )
    examples: ClassVar = (
        "steadyclip tune photos --model openai/clip-vit-base-patch16",
        "steadyclip tune photos --model openai/clip-vit-base-patch16 --dry-run",
        'steadyclip tune lab-food --shots 8 --method "lora[rank=4]" --rest lab-people',
    )

    source: OmitArgPrefixes[_Images]
    model: str | None = None
    """Installed model, local directory or hub id of a CLIP, SigLIP or SigLIP 2, or open_clip:MODEL/PRETRAINED.
    By default `icons-small` for built-in data; for your own, name one."""
    method: str = "orthcr"
    """One of `steadyclip methods`, with changes in brackets: "lora[rank=4,steps=500]"."""
    shots: Count | None = None
    """Training images per class; all of them if not given."""
    rest: tuple[str, ...] = ()
    """Other data to score too, of what is not trained on. Without it, a second training on half of your classes says
    what becomes of the other half."""
    half: bool = True
    """That second training; without it what is lost is not measured, unless --rest names data."""
    out: Path | None = None
    """Run folder; by default in runs/."""
    seed: Seed = 1
    """Of the sample and of the training."""
    dry_run: bool = False
    """Check the images, show the plan, and stop."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the forward pass."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    workers: Workers = 0
    """Processes that decode images."""
    progress: bool = True
    """Show loss, speed and time left on standard error."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.deploy.calibration import CALIBRATION, calibrate_new
        from steadyclip.experiments.settings import settings_for
        from steadyclip.experiments.tuning import Tuning, find_copies, refuse_hopeless, sensible
        from steadyclip.models.loading import find_model
        from steadyclip.report import main_table, need_verdict, write_page
        from steadyclip.training import Stopped, load_run
        from steadyclip.training.config import TrainConfig

        row = one_row("--method", self.method, settings_for(self.model or EMBEDDED))
        row.method.files()
        data = self.source.load()
        rest = [load_data(name, root=self.source.root) for name in self.rest]
        named = model_for(self.model, self.source.data)
        find_model(named)  # before every image is read
        say(*data.summary())
        for line in refuse_hopeless(data):
            say(line)
        copies, said = find_copies(data)
        say(*said)
        out = self.out or Path("runs") / f"{data.name}-tuned-{row.slug}-seed{self.seed}"
        own = {name: getattr(self, name) for name in ("seed", "precision", "device", "workers", "progress")}
        config = TrainConfig(**{**own, **row.config, "out": out})
        job = Tuning(data, row, named, config, rest, self.shots, self.half, self.source.templates, copies, say)
        tasks = job.tasks()
        say(*tasks[0].notes[len(data.notes) :])
        if row.recipe and not row.says_how_long:
            shorter = sensible(row.recipe, len(tasks[0].train), len(tasks[0].classes))
            job = dataclasses.replace(job, row=dataclasses.replace(row, recipe=shorter))
        say(*job.plan(tasks))
        if self.dry_run:
            return
        try:
            records = job.run(tasks)
        except Stopped:
            keep_config("tune", self, out)
            raise
        keep_config("tune", self, out)
        if not (out / CALIBRATION).is_file():
            say(*calibrate_new(*load_run(out, device=best_device(self.device)), tasks[0], out))
        show(main_table(records))
        page = write_page(records, out / "report.html", f"{data.name}: {row.label}", out)
        say("")
        tell(need_verdict(records).text)
        say("", f"page: {page}", f"next: steadyclip predict {out} IMAGE")
