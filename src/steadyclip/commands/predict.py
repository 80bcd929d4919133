"""`predict` and `calibrate`: a run, an export or a pretrained model names images."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, Positional

from steadyclip.commands.options import DataOptions, check_values, print_json, say
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.limits import BatchSize, Count, Workers
from steadyclip.core.precision import best_device

if TYPE_CHECKING:
    from steadyclip.deploy import Prediction, Predictor


@dataclasses.dataclass(frozen=True)
class EngineOptions:
    """What computes the answers."""

    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    backend: Literal["torch", "onnx"] = "torch"
    """`onnx` reads an export for onnxruntime, without torch."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def open(self, source: str, names: Sequence[str] = (), templates: Sequence[str] = ()) -> Predictor:
        """The predictor of ``source``."""
        from steadyclip.deploy import Predictor

        if self.plugin:  # a run folder never imports a file by itself
            from steadyclip.methods import find_method

            find_method(self.plugin)
        device = "cpu" if self.backend == "onnx" else best_device(self.device)
        return Predictor(source, names=names, templates=templates, backend=self.backend, device=device)


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """What answers, and among which names."""

    engine: OmitArgPrefixes[EngineOptions]
    names: tuple[str, ...] = ()
    """Classes to choose among, or @FILE with one a line; by default those of the run. A pretrained model needs them."""
    templates: tuple[str, ...] = ()
    """Prompts with {} for the class name; by default those of the run."""

    def open(self, source: str) -> Predictor:
        """The predictor of ``source``."""
        return self.engine.open(source, read_names(self.names), self.templates)


@dataclasses.dataclass(frozen=True)
class Predict:
    """Name images, by a run, an export, or a pretrained model with --names."""

    common: ClassVar = ("source", "images", "names", "out", "top", "threshold", "json")
    examples: ClassVar = (
        "steadyclip predict runs/photos new-photos --out answers.csv",
        "steadyclip predict icons-small cat.png --names cat dog",
    )

    source: Positional[str]
    """Folder of a run or of an export, or a pretrained model, as for `train --model`."""
    images: Positional[tuple[str, ...]]
    """Images, folders, patterns ("photos/*.jpg"), lists (.txt with a path a line, a table with a column `path`), or `-`
    for paths on standard input."""
    answers: OmitArgPrefixes[SourceOptions]
    out: Path | None = None
    """Write a table: .csv, .jsonl (both line by line), .json or .parquet."""
    top: Count = 5
    """Names to give for each image."""
    threshold: float | Literal["off"] | None = None
    """Below this probability the answer is "unsure"; by default what was calibrated, if anything was."""
    json: bool = False
    """Print JSON instead of lines."""
    csv: bool = False
    """Print CSV instead of lines."""
    resume: bool = False
    """Go on with a .csv or .jsonl file that was stopped."""
    force: bool = False
    """Write --out anew where it is there already."""
    strict: bool = False
    """End with exit code 1 if any image cannot be read, not only if none can."""
    recursive: bool = True
    """Also look into the folders below a folder."""
    batch_size: BatchSize = 64
    """Images in a forward pass."""
    workers: Workers = 0
    """Processes that decode images; 0 decodes on threads."""

    def __call__(self) -> None:
        from steadyclip.core.files import owning
        from steadyclip.deploy.results import check_file

        if not self.images:
            if names := self.answers.names:
                raise UsageError(f"{names[-1]!r} was read as a name: images stand before --names.")
            raise UsageError("name at least one image: steadyclip predict RUN PHOTO ...")
        if self.out:
            check_file(self.out, self.resume, self.force)
        elif self.resume or self.force:
            raise UsageError("--resume and --force are about the file of --out: name one.")
        if self.json + self.csv + bool(self.out) > 1:
            raise UsageError("give one of --json, --csv and --out.")
        if not self.out:
            return self._predict()
        with owning(self.out.with_name(f".{self.out.name}.lock"), leave=False) as owner:
            if owner:
                raise DataError(f"{self.out} is being written by {owner}: wait for it, or name another --out.")
            self._predict()

    def _predict(self) -> None:
        from steadyclip.core.progress import progress_bar
        from steadyclip.deploy.listing import find_pictures
        from steadyclip.deploy.results import done_before

        paths = find_pictures(self.images, recursive=self.recursive, stdin=sys.stdin)
        predictor = self.answers.open(self.source)
        top = min(self.top, len(predictor.names))
        done = done_before(self.out, paths, top, predictor.hash) if self.out and self.resume else set[str]()
        left = [path for path in paths if path not in done]
        counts: Counter[str] = Counter()
        wrong = ""
        long = self.out is not None or len(left) > self.batch_size
        with self._writing(predictor, top) as write, progress_bar("predict") if long else _no_bar() as progress:
            found = predictor.stream(
                ((path, path) for path in left), top=top, threshold=self.threshold, batch_size=self.batch_size,
                workers=self.workers,
            )  # fmt: skip
            for number, prediction in enumerate(found, start=1):
                write(prediction)
                progress(number, len(left))
                counts["unreadable" if prediction.error else "named" if prediction.sure else "unsure"] += 1
                wrong = wrong or (f"{prediction.path}: {prediction.error}" if prediction.error else "")
        if long:
            self._tell(counts, len(done))
        if counts["unreadable"] and (self.strict or counts["unreadable"] == len(paths)):
            raise DataError(f"{counts['unreadable']} of {len(left)} images cannot be read, for instance {wrong}.")

    @contextlib.contextmanager
    def _writing(self, predictor: Predictor, top: int) -> Iterator[Callable[[Prediction], None]]:
        """Where predictions go."""
        from steadyclip.deploy import results

        if self.out:
            with results.writing(self.out, top, predictor.hash, resume=self.resume) as write:
                yield write
        elif self.json:
            found: list[Prediction] = []
            yield found.append
            print_json([results.as_object(prediction, predictor.hash) for prediction in found])
        elif self.csv:
            print(results.header_of(".csv", top), end="")
            yield lambda prediction: print(results.line_of(prediction, ".csv", top, predictor.hash), end="", flush=True)
        else:
            yield _show

    def _tell(self, counts: Counter[str], before: int) -> None:
        parts = [f"{counts['named']} named"]
        parts += [f"{counts['unsure']} unsure"] if counts["unsure"] else []
        parts += [f"{counts['unreadable']} unreadable"] if counts["unreadable"] else []
        parts += [f"{before} were there already"] if before else []
        print(f"predictions: {', '.join(parts)}{f' ({self.out})' if self.out else ''}", file=sys.stderr)


def _show(prediction: Prediction) -> None:
    print(prediction.path)
    if prediction.error:
        print(f"  cannot be read: {prediction.error}")
    elif not prediction.sure:
        print("  unsure; the nearest:")
    for name, probability in zip(prediction.names, prediction.probabilities, strict=True):
        print(f"  {probability:6.1%}  {name}")


@contextlib.contextmanager
def _no_bar() -> Iterator[Callable[[int, int], None]]:
    yield lambda done, total: None


def read_names(words: Sequence[str]) -> tuple[str, ...]:
    """Class names as given with ``--names``, or one a line of ``@FILE``.

    Raises:
        UsageError: an empty name, a name twice, or a file that cannot be read.
    """
    from steadyclip.data.listing import class_name

    if len(words) == 1 and words[0].startswith("@"):
        try:
            words = [line for line in Path(words[0][1:]).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"--names {words[0]}: the file cannot be read: {error}.") from None
        check_values("--names @FILE", words)
    names = tuple(map(class_name, words))
    check_values("--names", [name.casefold() for name in names] if names else None)
    if not all(names):
        raise UsageError("--names: an empty name was given, leave it out.")
    return names


@dataclasses.dataclass(frozen=True)
class Calibrate:
    """Choose temperature and threshold of a run on its validation images, so that it can say "unsure"."""

    common: ClassVar = ("run", "data", "precision", "keep")
    examples: ClassVar = ("steadyclip calibrate runs/photos --data photos --precision 0.95",)

    run: Positional[Path]
    """Folder that `steadyclip train` wrote."""
    source: OmitArgPrefixes[DataOptions]
    precision: float | None = None
    """The smallest threshold above which so large a share of the answers is right; 0.9 by default."""
    keep: float | None = None
    """Instead: the threshold at which this share of the images is answered."""
    plugin: str | None = None
    """path/to/mine.py:Mine, where the run was trained by a method of yours: the file is run."""
    batch_size: BatchSize = 64
    """Images in a forward pass."""
    workers: Workers = 0
    """Processes that decode images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""

    def __call__(self) -> None:
        from steadyclip.core.progress import progress_bar
        from steadyclip.data.task import read_split
        from steadyclip.deploy.calibration import CALIBRATION, calibrate, check_shares
        from steadyclip.methods import find_method
        from steadyclip.training import load_run

        check_shares(self.precision, self.keep)
        if self.plugin:
            find_method(self.plugin)
        split = read_split(self.run / "split.json")
        model, method, run = load_run(self.run, device=best_device(self.device))
        val = self.source.load().restore(split).val
        with progress_bar("calibration") as progress:
            found = calibrate(
                model, method, run, val, precision=self.precision, keep=self.keep, folder=self.run,
                batch_size=self.batch_size, workers=self.workers, progress=progress,
            )  # fmt: skip
        say(*found.lines(), f"calibration: {self.run / CALIBRATION}")
