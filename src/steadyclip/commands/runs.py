"""`train`, `evaluate`, `predict` and `methods`: a run and what is done with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import (
    EMBEDDED,
    DataOptions,
    SubsetName,
    check_values,
    model_for,
    print_json,
    say,
    show,
)
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.precision import Precision, best_device
from steadyclip.experiments.settings import PUBLISHED, RecipeChoice, Settings
from steadyclip.training.config import RunConfig, TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.evaluation import Record
    from steadyclip.experiments.rows import Row
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model on your images. The same command again resumes, or returns what is finished."""

    source: OmitArgPrefixes[DataOptions]
    run: OmitArgPrefixes[RunConfig]
    method: str = "lora"
    """One of `steadyclip methods`, with changes in brackets: "lora[rank=4,layers=q:v,epochs=5]" (with the quotes, as
    shells read brackets), or @FILE with such a row: docs/rows.md."""
    model: str | None = None
    """Installed model, local directory or hub id of a CLIP, SigLIP or SigLIP 2, or open_clip:MODEL/PRETRAINED.
    By default `icons-small` for built-in data, which are drawings as it knows them; for your own data, name one."""
    recipes: RecipeChoice = "auto"
    """`auto` trains `icons-small` by recipes of its own, others as published."""
    shots: int | None = None
    """Training images per class, drawn as the field draws them; all of them if not given."""
    subset: SubsetName = "all"
    """Classes to train on: all, or the first half (base)."""

    def __call__(self) -> None:
        from steadyclip.experiments.bench import settings_lines
        from steadyclip.experiments.settings import settings_for
        from steadyclip.models import load
        from steadyclip.training import fit

        row = _one_row("--method", self.method, settings_for(self.model or EMBEDDED, self.recipes))
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
        result = fit(model, row.method, task, recipe=row.recipe, config=TrainConfig(**settings))
        if result.seconds:
            say(f"trained in {result.seconds:.0f} s")
        plugin = f" --plugin {row.file}" if row.file else ""
        say(f"run: {out}", f"next: steadyclip evaluate {out} {self.source.words}{plugin}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a run, or a model as it is, on the test images of a data set; a JSON record for each set of classes."""

    run: Positional[str]
    """Folder that `steadyclip train` wrote, or a method that needs no training, such as zero-shot, with --model."""
    source: OmitArgPrefixes[DataOptions]
    model: str | None = None
    """The pretrained model, as for `steadyclip train`; a run knows its own."""
    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    subset: SubsetName | None = None
    """Classes to score among; by default all, or base and new for a run that was trained on base: base is what it was
    trained on, new every other class of the data."""
    domain: str | None = None
    """Domain of the test images; by default those of training."""
    batch_size: int = 64
    """Images in a forward pass."""
    workers: int = 0
    """Processes that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass."""
    wise_alpha: float | Literal["val"] | None = None
    """Average the weights first: 0 is the pretrained model, 1 the trained one; `val` takes what is best on the
    validation images of the run."""
    wise_curve: bool = False
    """Score at 0, 0.1, ..., 1."""

    def __call__(self) -> None:
        from steadyclip.data.task import read_split, seen_by
        from steadyclip.evaluation import evaluate, evaluate_averaged
        from steadyclip.evaluation.test_sets import as_before, prompts_for, tests_of, what_was_scored
        from steadyclip.methods import find_method
        from steadyclip.models import load
        from steadyclip.report import main_table
        from steadyclip.training import load_run

        if self.plugin:  # a run folder never imports a file by itself
            find_method(self.plugin)
        folder, run, precision = Path(self.run), None, self.precision
        row = None if folder.is_dir() else self._row()
        data = self.source.load()
        split: dict[str, Any] = {"data": data.name, "train": [], "val": []}
        device = best_device(self.device)
        model = load(self.model, device=device) if self.model else None
        if row is None:
            model, method, run = load_run(folder, model=model, device=device)
            split = read_split(folder / "split.json")
        else:
            assert model is not None
            method, precision = row.method, row.config.get("precision", precision)
            folder = Path("runs") / f"{data.name}-{row.slug}-{Path(model.name).name}"
        say(*data.notes)
        seen = seen_by(split) if method.learns else frozenset[str]()
        options: dict[str, Any] = {
            "batch_size": self.batch_size, "workers": self.workers, "precision": precision, "progress": True,
        }  # fmt: skip
        scored = run.task if run else None
        options["templates"] = self.source.templates or prompts_for(data, scored)
        alphas = self._alphas(model, method, data, split, options)
        options |= {"run": run, "whole": data.splits["test"].content}
        records: list[Record] = []
        for test in tests_of(data, scored, self.subset):
            found = data.test_set(domain=self.domain, classes=test.classes)
            images = found.unlike(seen)
            if not len(images):
                raise DataError(
                    f"all {len(found)} test images of {data.name} were trained or validated on by {folder}."
                )
            options |= {"subset": test.subset, "note": test.note, "seen": len(found) - len(images)}
            if alphas is None:
                of_test = [evaluate(model, method, images, **options)]
            else:
                of_test = evaluate_averaged(model, method, images, alphas, **options)
            for i, record in enumerate(of_test):
                of_test[i] = record = as_before(record, folder / "records" / record.file_name)
                say(f"record: {record.write(folder / 'records' / record.file_name)}")
            say(*what_was_scored(of_test[-1], data, test.classes))
            records += of_test
        show(main_table(records))

    def _row(self) -> Row:
        """What is named in the place of a run."""
        try:
            row = _one_row("evaluate", self.run)
        except UsageError as error:
            raise UsageError(f"no run folder {self.run!r}, and as a method: {error}") from None
        if row.method.learns:
            raise UsageError(f"{row.label} must be trained first, by `steadyclip train`: name the folder of that run.")
        if self.wise_curve or self.wise_alpha is not None:
            raise UsageError(f"{row.label} trains no weights: leave --wise-alpha and --wise-curve out.")
        if self.model is None:
            raise UsageError(f"{row.label} is scored on a model as it is: name one with --model.")
        return row

    def _alphas(
        self, model: DualEncoder, method: Method, data: ImageData, split: dict[str, Any], options: dict[str, Any]
    ) -> tuple[float, ...] | None:
        """Shares of the trained weights to score; None: no average is asked for."""
        from steadyclip.evaluation import choose_alpha
        from steadyclip.evaluation.wise import ALPHAS

        if self.wise_curve and self.wise_alpha is not None:
            raise UsageError("give --wise-alpha or --wise-curve, not both.")
        if self.wise_curve:
            return ALPHAS
        if self.wise_alpha != "val":
            return None if self.wise_alpha is None else (self.wise_alpha,)
        try:
            val = data.restore(split).val
        except DataError as error:
            raise UsageError(
                f"--wise-alpha val looks at the validation images of the run, and --data has others: {error} Or choose "
                "alpha there, and give it here as a number."
            ) from None
        alpha = choose_alpha(model, method, val, **options)
        say(f"alpha {alpha:g}, chosen on validation images")
        return (alpha,)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Name single images with a run."""

    run: Positional[Path]
    """Folder that `steadyclip train` wrote."""
    images: Positional[tuple[Path, ...]]
    """Images."""
    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    top: int = 5
    """Names to print for each."""
    names: tuple[str, ...] = ()
    """Classes to choose among; by default those of the run."""
    json: bool = False
    """Print JSON instead of lines."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.data.listing import class_name
        from steadyclip.evaluation import predict
        from steadyclip.methods import find_method
        from steadyclip.training import load_run

        if not self.images:
            raise UsageError("name at least one image: steadyclip predict RUN PHOTO ...")
        check_values("--top", [self.top], least=1)
        if self.plugin:
            find_method(self.plugin)
        model, method, run = load_run(self.run, device=best_device(self.device))
        names = tuple(map(class_name, self.names)) or run.task.classes
        check_values("--names", [name.casefold() for name in names] if self.names else None)
        if not all(names):
            raise UsageError("--names: an empty name was given, leave it out.")
        found = predict(model, method, self.images, names, run.task.templates, top=self.top)
        if self.json:
            print_json([dataclasses.asdict(prediction) for prediction in found])
            return
        for prediction in found:
            print(prediction.path)
            for name, probability in zip(prediction.names, prediction.probabilities, strict=True):
                print(f"  {probability:6.1%}  {name}")


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


def _one_row(flag: str, text: str, settings: Settings = PUBLISHED) -> Row:
    from steadyclip.experiments.rows import parse_rows

    row, *others = parse_rows([text], settings)
    if others:
        raise UsageError(f"{flag} takes one method, not {1 + len(others)}: `steadyclip bench` takes several.")
    return row
