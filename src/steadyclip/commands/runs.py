"""`train`, `evaluate`, `predict`: a run and what is done with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import DataOptions, RecipeOptions, SubsetName, best_device, parse_knobs, say, show
from steadyclip.core.errors import UsageError
from steadyclip.core.precision import Precision
from steadyclip.training.config import TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.evaluation import Record
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder


@dataclasses.dataclass(frozen=True)
class Train:
    """Fine-tune a model on your images. The same command again resumes, or returns what is finished."""

    source: OmitArgPrefixes[DataOptions]
    recipe: OmitArgPrefixes[RecipeOptions]
    run: OmitArgPrefixes[TrainConfig]
    method: str = "lora"
    """One of `steadyclip methods`."""
    knobs: tuple[str, ...] = ()
    """The method's own settings as name=value; `steadyclip methods NAME` lists them."""
    model: str = "icons-tiny"
    """Installed model, local directory or hub id of a CLIP, SigLIP or SigLIP 2, or open_clip:MODEL/PRETRAINED."""
    shots: int | None = None
    """Training images per class, drawn as the field draws them; all of them if not given."""
    subset: SubsetName = "all"
    """Classes to train on: all, or the first half (base)."""

    def __call__(self) -> None:
        from steadyclip.methods import get_method
        from steadyclip.models import load
        from steadyclip.training import fit

        method = get_method(self.method, parse_knobs(self.knobs))
        recipe = self.recipe.change(method.recipe, method.name)
        task = self.source.load().task(shots=self.shots, seed=self.run.seed, subset=self.subset)
        say(*task.summary())
        out = self.run.out or Path("runs") / f"{task.name}-{method.name}-seed{self.run.seed}"
        result = fit(load(self.model), method, task, recipe=recipe, config=dataclasses.replace(self.run, out=out))
        if result.seconds:
            say(f"trained in {result.seconds:.0f} s")
        say(f"run: {out}", f"next: steadyclip evaluate {out} {self.source.words}")


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a run on the test images of a data set; one JSON record for each set of classes."""

    run: Positional[Path]
    """Folder that `steadyclip train` wrote."""
    source: OmitArgPrefixes[DataOptions]
    subset: SubsetName | None = None
    """Classes to score among; by default all, or base and new for a run that was trained on base."""
    domain: str | None = None
    """Domain of the test images; by default those of training."""
    batch_size: int = 64
    """Images in a forward pass."""
    workers: int = 0
    """Processes that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass."""
    wise_alpha: float | Literal["val"] | None = None
    """Average the weights first: 0 is the pretrained model, 1 the trained one; `val` takes what is best on the
    validation images of the run."""
    wise_curve: bool = False
    """Score at 0, 0.1, ..., 1."""

    def __call__(self) -> None:
        from steadyclip.data import catalog, read_split
        from steadyclip.evaluation import evaluate, evaluate_averaged
        from steadyclip.report import main_table
        from steadyclip.training import load_run

        model, method, run = load_run(self.run, device=best_device(self.device))
        data = self.source.load()
        split = read_split(self.run / "split.json")
        seen = {key for part in ("train", "val") for key, _ in split[part]} if data.name == split["data"] else set()
        trained = run.task.classes
        same = set(trained) <= set(data.classes)
        shift = catalog.is_shift(data.name, data.classes, split["data"], trained)
        templates = self.source.templates or (run.task.templates if same or shift else None)
        subsets: list[SubsetName] = ["all"]
        if self.subset:
            subsets = [self.subset]
        elif same and run.task.subset == "base":
            subsets = ["base", "new"]
        common: dict[str, Any] = {
            "batch_size": self.batch_size, "workers": self.workers, "precision": self.precision, "progress": True,
        }  # fmt: skip
        alphas = self._alphas(model, method, data, split, common)
        records: list[Record] = []
        for subset in subsets:
            images = data.test_set(subset, self.domain, exclude=seen)
            note = self._note(split["data"], len(trained), len(images.classes)) if shift and not same else ""
            options = {"subset": subset, "templates": templates, "run": run, "note": note, **common}
            if alphas is None:
                found = [evaluate(model, method, images, **options)]
            else:
                found = evaluate_averaged(model, method, images, alphas, **options)
            for record in found:
                alpha = [] if record.wise_alpha is None else [f"alpha{record.wise_alpha:g}"]
                parts = [data.name, subset, *([self.domain] if self.domain else []), *alpha]
                path = record.write(self.run / "records" / f"{'-'.join(parts)}.json")
                say(f"record: {path}", *(f"skipped {key}: {reason}" for key, reason in record.data.skipped))
            records += found
        show(main_table(records))

    @staticmethod
    def _note(source: str, trained: int, among: int) -> str:
        """What a reader of the numbers must know, in the words of `bench`."""
        from steadyclip.data import catalog
        from steadyclip.evaluation.records import scored_among

        known = catalog.find(source)  # the run may have seen a half of its classes
        return scored_among(among, max(trained, known.classes if known else 0))

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
        if data.name != split["data"]:
            raise UsageError(
                f"--wise-alpha val looks at the validation images of {split['data']!r}, and --data is {data.name!r}: "
                "choose alpha there, and give it here as a number."
            )
        alpha = choose_alpha(model, method, data.restore(split).val, **options)
        say(f"alpha {alpha:g}, chosen on validation images")
        return (alpha,)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Name single images with a run."""

    run: Positional[Path]
    """Folder that `steadyclip train` wrote."""
    images: Positional[tuple[Path, ...]]
    """Images."""
    top: int = 5
    """Names to print for each."""
    names: tuple[str, ...] = ()
    """Classes to choose among; by default those of the run."""
    json: bool = False
    """Print JSON instead of lines."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`."""

    def __call__(self) -> None:
        import json

        from steadyclip.deploy import predict
        from steadyclip.training import load_run

        if not self.images:
            raise UsageError("name at least one image: steadyclip predict RUN PHOTO ...")
        if self.top < 1:
            raise UsageError(f"--top must be 1 or more, not {self.top}.")
        model, method, run = load_run(self.run, device=best_device(self.device))
        names = self.names or run.task.classes
        found = predict(model, method, self.images, names, run.task.templates, top=self.top)
        if self.json:
            print(json.dumps([dataclasses.asdict(p) for p in found], indent=1, ensure_ascii=False))
            return
        for prediction in found:
            print(prediction.path)
            for name, probability in zip(prediction.names, prediction.probabilities, strict=True):
                print(f"  {probability:6.1%}  {name}")
