"""`evaluate`: a run against the frozen model, on images that neither has seen."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import DataOptions, SubsetName, one_row, say, show, tell
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.limits import BatchSize, Workers
from steadyclip.core.precision import AskedPrecision, best_device

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.experiments.rows import Row
    from steadyclip.methods import Method
    from steadyclip.models import DualEncoder


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a run, or a model as it is, on the test images of a data set; a JSON record for each set of classes."""

    common: ClassVar = (
        "run",
        "data",
        "rest",
        "subset",
        "model",
        "precision",
    )
    examples: ClassVar = (
        "steadyclip evaluate runs/photos --data photos --rest other-photos",
        "steadyclip evaluate zero-shot --model icons-small --data lab-food",
    )

    run: Positional[str]
    """Folder that `steadyclip train` wrote, or a method that needs no training, such as zero-shot, with --model."""
    source: OmitArgPrefixes[DataOptions]
    rest: tuple[str, ...] = ()
    """Other data sets to score too, of what was not trained on, so that the verdict can say what was lost there."""
    model: str | None = None
    """The pretrained model, as for `steadyclip train`; a run knows its own."""
    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    subset: SubsetName | None = None
    """Classes to score among; by default all, or base and new for a run that was trained on base: base is what it was
    trained on, new every other class of the data."""
    domain: str | None = None
    """Domain of the test images; by default those of training."""
    batch_size: BatchSize = 64
    """Images in a forward pass."""
    workers: Workers = 0
    """Processes that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    precision: AskedPrecision = "auto"
    """Arithmetic of the forward pass."""
    wise_alpha: float | Literal["val"] | None = None
    """Average the weights first: 0 is the pretrained model, 1 the trained one; `val` takes what is best on the
    validation images of the run."""
    wise_curve: bool = False
    """Score at 0, 0.1, ..., 1."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.data.task import read_split, seen_by
        from steadyclip.evaluation.test_sets import prompts_for
        from steadyclip.experiments.before_after import BeforeAfter, to_score
        from steadyclip.methods import find_method
        from steadyclip.models import load
        from steadyclip.report import main_table, verdict
        from steadyclip.training import load_run

        if self.plugin:  # a run folder never imports a file by itself
            find_method(self.plugin)
        folder, run, precision = Path(self.run), None, self.precision
        row = None if folder.is_dir() else self._row()
        data = self.source.load()
        rest = [load_data(name, root=self.source.root) for name in self.rest]
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
        options: dict[str, Any] = {
            "batch_size": self.batch_size, "workers": self.workers, "precision": precision, "progress": True,
        }  # fmt: skip
        templates = self.source.templates or prompts_for(data, run.task if run else None)
        alphas = self._alphas(model, method, data, split, {**options, "templates": templates})
        both = BeforeAfter(
            model, method, run, folder, seen_by(split) if method.learns else frozenset(), alphas,
            self.source.templates, options, say,
        )  # fmt: skip
        records = both.score(to_score(data, run, rest, self.subset, self.domain))
        show(main_table(records))
        if found := verdict(records):
            tell(found.text)

    def _row(self) -> Row:
        """What is named in the place of a run."""
        try:
            row = one_row("evaluate", self.run)
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
