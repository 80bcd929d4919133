"""`train` and `methods`."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any, ClassVar

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.flags import keep_config
from steadyclip.commands.options import (
    EMBEDDED,
    DataOptions,
    SubsetName,
    model_for,
    one_row,
    say,
    show,
)
from steadyclip.core.limits import Count
from steadyclip.experiments.settings import RecipeChoice
from steadyclip.training.config import RunConfig, TrainConfig


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model on your images. The same command again resumes, or returns what is finished."""

    common: ClassVar = ("data", "model", "method", "shots", "subset", "out")
    examples: ClassVar = (
        "steadyclip train --data photos --model openai/clip-vit-base-patch16 --shots 16 --out runs/photos",
        'steadyclip train --data lab-things --method "lora[rank=4,epochs=5]" --subset base',
    )

    source: OmitArgPrefixes[DataOptions]
    run: OmitArgPrefixes[RunConfig]
    method: str = "lora"
    """One of `steadyclip methods`, with changes in quotes and brackets: "lora[rank=4,epochs=5]"; or @FILE with such a
    row: docs/rows.md."""
    model: str | None = None
    """Installed model, local directory or hub id of a CLIP, SigLIP or SigLIP 2, or open_clip:MODEL/PRETRAINED.
    By default `icons-small` for built-in data; for your own, name one."""
    recipes: RecipeChoice = "auto"
    """`auto` trains `icons-small` by recipes of its own, others as published."""
    shots: Count | None = None
    """Training images per class, drawn as the field draws them; all of them if not given."""
    subset: SubsetName = "all"
    """Classes to train on: all, or the first half (base)."""

    def __call__(self) -> None:
        from steadyclip.deploy.calibration import calibrate_new
        from steadyclip.experiments.bench import settings_lines
        from steadyclip.experiments.settings import settings_for
        from steadyclip.models import load
        from steadyclip.training import Stopped, fit

        row = one_row("--method", self.method, settings_for(self.model or EMBEDDED, self.recipes))
        row.method.files()  # each is there, before any image is looked at
        task = self.source.load().task(shots=self.shots, seed=self.run.seed, subset=self.subset)
        named = model_for(self.model, self.source.data)
        model = load(named)
        say(f"model: {model.name} ({model.family}), {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M weights")
        say(*task.summary(), *settings_lines([row], named))
        if row.recipe:
            images, size = len(task.train), min(row.recipe.batch_size, len(task.train))
            steps = row.recipe.total_steps(images, len(task.classes))
            say(f"{row.label}: {steps:,} steps of {size} images, each image {steps * size / images:.3g} times")
        out = self.run.out or Path("runs") / f"{task.name}-{row.slug}-seed{self.run.seed}"
        settings: dict[str, Any] = {**vars(self.run), **row.config, "out": out}
        try:
            result = fit(model, row.method, task, recipe=row.recipe, config=TrainConfig(**settings))
        except Stopped:
            keep_config("train", self, out)
            raise
        keep_config("train", self, out)
        if result.seconds:
            say(f"trained in {result.seconds:.0f} s", *calibrate_new(model, row.method, result.run, task, out))
        plugin = f" --plugin {shlex.quote(row.file)}" if row.file else ""
        say(f"run: {out}", f"next: steadyclip evaluate {shlex.quote(str(out))} {self.source.words}{plugin}")


@dataclasses.dataclass(frozen=True)
class Methods:
    """List the methods, or what one is: its facts, recipe and knobs."""

    name: Positional[str | None] = None
    """A method, or path/to/mine.py:Mine."""

    def __call__(self) -> None:
        from rich.table import Table

        from steadyclip.experiments.rows import parse_row
        from steadyclip.methods import methods
        from steadyclip.methods.knobs import knobs_of
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
        declared = knobs_of(method)
        for knob, value in method.knobs().items():
            text = ":".join(map(str, value)) if isinstance(value, list) else str(value)
            knobs.add_row(knob, text, declared[knob].help if knob in declared else "pieces, as text")
        say("")
        show(knobs if knobs.rows else "no knobs")
