"""The run folder: what was trained, from what and how (``run.json``), on which images (``split.json``), and the result.

RUN/run.json, split.json, log.jsonl, trained.safetensors (at the end), checkpoints/step-...
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from steadyclip.core.errors import DataError, ModelError, SteadyClipError, UsageError
from steadyclip.core.files import file_digest, owning, remove_leftovers, write_atomic
from steadyclip.core.provenance import commit, now, versions
from steadyclip.data.task import read_split
from steadyclip.evaluation.records import MethodInfo, ModelInfo, Record, Results, Run, TaskInfo
from steadyclip.training.checkpoint import Checkpoint, newest_checkpoint, read_tensors, to_bytes
from steadyclip.training.config import DECIDES, TrainConfig

if TYPE_CHECKING:
    from torch import Tensor

    from steadyclip.data import ImageTask
    from steadyclip.methods.base import Method
    from steadyclip.methods.recipe import Recipe
    from steadyclip.models import DualEncoder

_NO_ROOM = "Make room and give the same command again to go on from the last checkpoint."


class Stopped(SteadyClipError):
    """A signal ended the training, after everything was saved."""

    exit_code = 130


class Untrained(NamedTuple):
    """What decides the numbers of a method that learns nothing, beside the test images."""

    model: ModelInfo
    method: MethodInfo
    precision: str


def describe(
    model: DualEncoder | ModelInfo,
    method: Method,
    task: ImageTask | TaskInfo,
    recipe: Recipe | None,
    config: TrainConfig,
) -> Run:
    """Everything a run is made from. Hashes the images of a task unless this was done before."""
    return Run(
        created=now(),
        model=ModelInfo(model.name, model.family, model.weights_hash),
        method=MethodInfo.of(method),
        recipe=dataclasses.asdict(recipe) if recipe else None,
        # A run may be moved, and should not reveal the paths of this machine.
        config={**dataclasses.asdict(config), "out": None, "feature_folder": None, "log": list(config.log)},
        task=task if isinstance(task, TaskInfo) else TaskInfo.of(task),
        versions=versions(),
        commit=commit(),
    )


def identity(of: Run | Record | Untrained) -> dict[str, Any]:
    """The facts that decide a result, by dotted name, as JSON values: runs that agree here give the same weights.

    This is the only place that says which. A folder is resumed by it, the cells of a grid are named by it, and the
    rows of a table are told apart by it. A record has the identity of its run; where nothing was trained, there is
    neither recipe nor task, and the precision of the scoring decides.
    """
    if isinstance(of, Record):
        of = of.training or Untrained(of.model, of.method, of.precision)
    method = {name: getattr(of.method, name) for name in ("name", "knobs", "files")}
    decide: dict[str, Any] = {"model": {"weights_hash": of.model.weights_hash}, "method": method}
    if isinstance(of, Untrained):
        decide["precision"] = of.precision
    else:
        task = {name: getattr(of.task, name) for name in ("subset", "shots", "seed", "classes", "templates", "content")}
        config = {name: of.config.get(name) for name in DECIDES}
        if of.config.get("patience") is not None:  # then it matters when was looked, too
            config |= {name: of.config.get(name) for name in ("patience", "validate_every")}
        decide |= {"recipe": of.recipe, "config": config, "task": task}
        if of.soup is not None:
            decide["soup"] = {"how": of.soup.how, "runs": of.soup.runs}
    return json.loads(json.dumps(dict(_flat(decide))))


def digest(of: Run | Record | Untrained) -> str:
    """The identity as 8 hex digits, for names of folders."""
    return hashlib.sha256(json.dumps(identity(of), sort_keys=True).encode()).hexdigest()[:8]


class RunFolder:
    """One run on disk: new, to be resumed, or finished."""

    def __init__(self, path: Path, run: Run, task: ImageTask | None = None) -> None:
        """Nothing is written yet. ``task`` is what ``run`` is trained on: with it, images that changed are named.

        Raises:
            SteadyClipError: the folder holds another run, named by the fields that differ, or what is not a run.
        """
        self.path, self.run, self.checkpoints, self.task = path, run, path / "checkpoints", task
        self._look()

    def _look(self) -> None:
        path, run, task = self.path, self.run, self.task
        self.exists = (path / "run.json").exists()
        if self.exists:
            self.run = Run.read(path / "run.json")
            if task and self.run.task.content != run.task.content:
                self._refuse_changed(task)
            _refuse_difference(identity(self.run), identity(run), f"{path} holds another run")
        elif path.is_file() or self.checkpoints.exists() or (path / "trained.safetensors").exists():
            raise SteadyClipError(f"{path} is there but holds no run.json: choose another folder with --out.")

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """No other process trains in the folder while this is entered. What dead ones left half written is removed.

        Raises:
            SteadyClipError: another process does, which is named; or the folder holds another run by now.
        """
        with owning(self.path / "run.lock", leave=False) as owner:
            if owner:
                raise SteadyClipError(
                    f"{self.path} is being trained by {owner}: wait for it, or choose another folder with --out."
                )
            self._look()  # what was there may have been written since
            check_files(self.run, self.path)
            for folder in (self.path, self.path / "records", self.checkpoints):
                remove_leftovers(folder)
            if self.run.finished and (self.path / "trained.safetensors").exists():
                shutil.rmtree(self.checkpoints, ignore_errors=True)  # whoever finished it could not
            yield

    def _refuse_changed(self, task: ImageTask) -> None:
        """Raises SteadyClipError naming an image of the run that ``task`` has too, but with other bytes."""
        split = read_split(self.path / "split.json")
        there = {key: digest for part in ("train", "val") for key, _, digest in split[part]}
        if changed := [*task.train.changed(there), *task.val.changed(there)]:
            raise SteadyClipError(
                f"{self.path} holds a run, and {len(changed)} of its {len(there)} images have changed since, for "
                f"instance {changed[0]}: choose another folder with --out, or bring the images back."
            )

    def checkpoint(self) -> Checkpoint | None:
        """The last complete checkpoint. Raises SteadyClipError if another run has written it."""
        found = newest_checkpoint(self.checkpoints)
        if found:
            what = f"{found.path} is a checkpoint of another run"
            _refuse_difference(found.state["identity"], identity(self.run), what)
        return found

    def start(self, split: dict[str, Any]) -> None:
        """Write what is known before the first step."""
        if not self.exists:
            write_atomic(self.path / "split.json", f"{json.dumps(split, indent=1, ensure_ascii=False)}\n".encode())
            self.run = replace(self.run, files={"split.json": file_digest(self.path / "split.json")})
            self.run.write(self.path / "run.json")

    def restart_log(self, rows: list[dict[str, Any]]) -> None:
        """Write ``log.jsonl`` anew, so that a resumed training repeats no row."""
        write_atomic(self.path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to ``log.jsonl``."""
        file = self.path / "log.jsonl"
        try:
            with file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
        except OSError as error:
            raise SteadyClipError(f"training stopped: cannot write {file} ({error.strerror}). {_NO_ROOM}") from error

    def logged(self) -> list[dict[str, Any]]:
        """As ``read_log``."""
        return read_log(self.path)

    def finish(self, trained: dict[str, Tensor], results: Results) -> None:
        """Write the result; ``run.json`` has ``results`` only once everything else is on disk."""
        try:
            write_atomic(self.path / "trained.safetensors", to_bytes(trained))
        except SteadyClipError as error:
            raise SteadyClipError(f"{error} {_NO_ROOM}") from error
        # not the log, which has times in it: the same training gives the same record
        files = {name: file_digest(self.path / name) for name in ("split.json", "trained.safetensors")}
        self.run = replace(self.run, results=results, completed=now(), files=files)
        self.run.write(self.path / "run.json")
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # the result supersedes them


class _Logged(msgspec.Struct):
    """What every row of a log has, among others."""

    step: int
    loss: float


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``log.jsonl`` up to the first that cannot be read, as a killed process leaves half of one;
    none when nothing was trained by gradient steps."""
    file, rows = folder / "log.jsonl", list[dict[str, Any]]()
    with contextlib.suppress(OSError, ValueError, msgspec.MsgspecError, RecursionError):
        for line in file.read_text(encoding="utf-8").splitlines():
            msgspec.json.decode(line, type=_Logged)
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
    return rows


def load_run(
    path: str | Path, *, model: DualEncoder | None = None, method: Method | None = None, device: str = "cpu"
) -> tuple[DualEncoder, Method, Run]:
    """A finished run, ready to evaluate or predict with.

    Args:
        path: the run folder.
        model: the pretrained model that was trained, freshly loaded; by default it is loaded by the name in the run.
        method: the method that was trained, with its knobs, where no registry knows it; by default it is found by the
            name in the run. No file and no package is imported to find it, except an installed package that provides
            it.
        device: where to load it.

    Returns:
        The trained model in evaluation mode, its method, and ``run.json``.

    Raises:
        SteadyClipError: the run is not finished, its files are missing or damaged, or its method is not known here.
        ModelError: the model is not the one that was trained, or the weights are missing or a pickle.
    """
    from steadyclip import models

    path = Path(path)
    run = Run.read(path / "run.json")
    if not run.finished:
        raise SteadyClipError(f"{path} is not finished: give its `steadyclip train` command again to go on.")
    method = _method(run, path, method)
    model = models.load(run.model.name, device=device) if model is None else model
    if model.weights_hash != run.model.weights_hash:
        raise ModelError(
            f"{path} was trained on other weights ({run.model.name}, {run.model.weights_hash}) than "
            f"{model.name} ({model.weights_hash}): load the model it was trained on."
        )
    check_files(run, path)
    restore(model, method, run.task.classes, path)
    return model, method, run


def check_files(run: Run, path: Path) -> None:
    """See that the files beside ``run.json`` are those that the training left. One that is missing is no matter here.

    Raises:
        DataError: one was changed or damaged.
    """
    for name, digest in run.files.items():
        if (path / name).is_file() and file_digest(path / name) != digest:
            if name.endswith(".safetensors"):
                read_tensors(path / name)  # it may say more
            raise DataError(f"{path / name} was changed or damaged since the training: copy it again, or {Run.REDO}.")


def restore(model: DualEncoder, method: Method, classes: Sequence[str], path: Path) -> None:
    """Make ``model`` what it was at the end of the training in the folder ``path``, in evaluation mode."""
    trained = read_tensors(path / "trained.safetensors")
    method.attach(model, classes)
    model.load_trained_state(trained)
    model.eval()


def _method(run: Run, path: Path, given: Method | None) -> Method:
    """The method of ``run``: the one that is given, if it is that one, or one that is known here."""
    from steadyclip.methods import get_method

    if given is not None:
        there, here = ({"name": info.name, "knobs": info.knobs} for info in (run.method, MethodInfo.of(given)))
        if names := ", ".join(_differing(dict(_flat(there)), dict(_flat(here)))):
            raise UsageError(f"{path} was trained by {run.method.label}; the method that is given differs in {names}.")
        return given
    name, origin = run.method.name, run.method.origin
    try:
        if ".py" in name:  # a run folder must not decide which file is run
            raise UsageError(f"{name!r} is no name of a method.")
        return get_method(name, run.method.knobs)
    except UsageError as error:
        if not origin:
            raise UsageError(f"{path} was trained by the method {name!r}: {error}") from None
        raise UsageError(
            f"{path} was trained by the method {name!r} of {origin}, which cannot be used here: {error} "
            f"Install or import it first, or give load_run the method."
        ) from None


def _refuse_difference(old: dict[str, Any], new: dict[str, Any], what: str) -> None:
    def short(value: Any) -> str:
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 40 else f"{text[:37]}..."

    named = [f"{name} (there {short(old.get(name))}, here {short(new.get(name))})" for name in _differing(old, new)]
    if named:
        raise SteadyClipError(
            f"{what}: {', '.join(named)}. Choose another folder with --out, or train with the same settings."
        )


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [name for name in {**old, **new} if old.get(name) != new.get(name)]


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
