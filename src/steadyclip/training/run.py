"""The run folder: what was trained, from what and how (``run.json``), on which images (``split.json``), and the result.

RUN/run.json, split.json, log.jsonl, trained.safetensors (at the end), checkpoints/step-...
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.core.files import write_atomic
from steadyclip.core.provenance import commit, versions
from steadyclip.methods.recipe import Recipe
from steadyclip.training.checkpoint import Checkpoint, newest_checkpoint, read_tensors, write_tensors
from steadyclip.training.config import DECIDES, TrainConfig

if TYPE_CHECKING:
    from steadyclip.data import ImageTask
    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder

Run = dict[str, Any]

SCHEMA = 1
KIND = "run"


def describe(model: DualEncoder, method: Method, task: ImageTask, recipe: Recipe | None, config: TrainConfig) -> Run:
    """Everything a run is made from, as plain JSON values."""
    settings = dataclasses.asdict(config)
    run = {
        "schema": SCHEMA,
        "kind": KIND,
        "finished": False,
        "created": now(),
        "model": {"name": model.name, "family": model.family, "weights_hash": model.weights_hash},
        "method": {"name": method.name, "knobs": method.knobs(), "files": method.files()},
        "recipe": dataclasses.asdict(recipe) if recipe else None,
        "config": {**settings, "out": None, "cache": None},  # a run folder may be moved, and tells no one's paths
        "task": {
            "name": task.name,
            "subset": task.subset,
            "shots": task.shots,
            "seed": task.seed,
            "hash": task.hash,
            "classes": task.classes,
            "templates": task.templates,
            "train_images": len(task.train),
            "val_images": len(task.val),
            "skipped": task.skipped,
        },
        "versions": versions(),
        "commit": commit(),
    }
    return json.loads(json.dumps(run))


def identity(run: Run) -> dict[str, Any]:
    """The fields that decide the result, by dotted name. Runs that agree here give the same weights."""
    decide = {
        "model": {"weights_hash": run["model"]["weights_hash"]},
        "method": run["method"],
        "recipe": run["recipe"],
        "config": {name: run["config"][name] for name in DECIDES},
        "task": {name: run["task"][name] for name in ("subset", "shots", "seed", "classes", "templates", "hash")},
    }
    return dict(_flat(decide))


class RunFolder:
    """One run on disk. Made with a description, it is either new, to be resumed, or finished."""

    def __init__(self, path: Path, run: Run) -> None:
        """Nothing is written yet.

        Raises:
            SteadyClipError: the folder holds another run, named by the fields that differ, or what is not a run.
        """
        self.path, self.run = path, run
        self.checkpoints = path / "checkpoints"
        self.exists = (path / "run.json").exists()
        if self.exists:
            self.run = read_run(path)
            self._expect_same(self.run, run, path)
        elif path.is_file() or self.checkpoints.exists() or (path / "trained.safetensors").exists():
            raise SteadyClipError(f"{path} is there but holds no run.json: choose another folder with --out.")

    @property
    def finished(self) -> bool:
        """Trained to the end: there is nothing left to do."""
        return bool(self.run["finished"])

    def checkpoint(self) -> Checkpoint | None:
        """The last whole checkpoint.

        Raises:
            SteadyClipError: it was written by another run.
        """
        found = newest_checkpoint(self.checkpoints)
        if found:
            _refuse_difference(
                found.state["identity"], identity(self.run), f"{found.path} is a checkpoint of another run"
            )
        return found

    def trained(self) -> dict[str, Any]:
        """What a finished run has learned."""
        return read_tensors(self.path / "trained.safetensors")

    def start(self, split: dict[str, Any]) -> None:
        """Write what is known before the first step."""
        if not self.exists:
            self._write("split.json", split)
            self._write("run.json", self.run)

    def restart_log(self, rows: list[dict[str, Any]]) -> None:
        """Write ``log.jsonl`` anew, so that a resumed training repeats no row."""
        write_atomic(self.path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())

    def log(self, row: dict[str, Any]) -> None:
        """Add a row to ``log.jsonl``."""
        try:
            with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise SteadyClipError(
                f"cannot write {self.path / 'log.jsonl'} ({error.strerror}): training stopped. "
                "Make room and give the same command again to go on from the last checkpoint."
            ) from error

    def logged(self) -> list[dict[str, Any]]:
        """The rows of ``log.jsonl``; none when nothing was trained by gradient steps."""
        file = self.path / "log.jsonl"
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []

    def finish(self, trained: dict[str, Any], results: dict[str, Any]) -> None:
        """Write the result; ``run.json`` says "finished" only once everything else is on disk."""
        temporary = self.path / ".trained.safetensors"
        try:
            write_tensors(temporary, trained)
            temporary.replace(self.path / "trained.safetensors")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise SteadyClipError(
                f"the trained weights cannot be written to {self.path} ({error.strerror or error}): "
                "make room and give the same command again to go on from the last checkpoint."
            ) from error
        self.run = {**self.run, **results, "finished": True, "completed": now()}
        self._write("run.json", self.run)
        shutil.rmtree(self.checkpoints, ignore_errors=True)  # the result supersedes them

    def _write(self, name: str, content: Any) -> None:
        write_atomic(self.path / name, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())

    @staticmethod
    def _expect_same(old: Run, new: Run, path: Path) -> None:
        _refuse_difference(identity(old), identity(new), f"{path} holds another run")


def read_run(path: Path) -> Run:
    """``run.json`` in the folder ``path``.

    Raises:
        SteadyClipError: not there, not a run, or of another version's layout.
    """
    file = path / "run.json"
    try:
        run = json.loads(file.read_bytes())
        if run["kind"] != KIND or run["schema"] != SCHEMA:
            raise ValueError(f"kind {run['kind']!r}, schema {run['schema']!r}")
        identity(run)
    except OSError as error:
        raise SteadyClipError(
            f"cannot read {file} ({error.strerror}): point to a folder that `steadyclip train` wrote."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise SteadyClipError(
            f"{file} is not a run that this version reads ({error}): train again into another folder."
        ) from None
    return run


def load_run(
    path: str | Path, *, model: DualEncoder | None = None, device: str = "cpu"
) -> tuple[DualEncoder, Method, Run]:
    """A finished run, ready to evaluate or predict with.

    Args:
        path: the run folder.
        model: the pretrained model that was trained, freshly loaded; by default it is loaded by the name in the run.
        device: where to load it.

    Returns:
        The trained model in evaluation mode, its method, and ``run.json``.

    Raises:
        SteadyClipError: the run is not finished, or its files are missing or damaged.
        ModelError: the model is not the one that was trained, or the weights are missing or a pickle.
    """
    from steadyclip import models
    from steadyclip.methods import get_method

    path = Path(path)
    run = read_run(path)
    if not run["finished"]:
        raise SteadyClipError(f"{path} is not finished: give its `steadyclip train` command again to go on.")
    trained = read_tensors(path / "trained.safetensors")
    method = get_method(run["method"]["name"], run["method"]["knobs"])
    model = models.load(run["model"]["name"], device=device) if model is None else model
    expect_weights(model, run, path)
    restore(model, method, run["task"]["classes"], trained)
    return model, method, run


def expect_weights(model: DualEncoder, run: Run, path: Path) -> None:
    """Raises ModelError when ``run`` was trained on another model than ``model``."""
    if model.weights_hash != run["model"]["weights_hash"]:
        raise ModelError(
            f"{path} was trained on other weights ({run['model']['name']}, {run['model']['weights_hash']}) than "
            f"{model.name} ({model.weights_hash}): load the model it was trained on."
        )


def restore(model: DualEncoder, method: Method, classes: list[str], trained: dict[str, Any]) -> None:
    """Make ``model`` what it was at the end of the training."""
    method.attach(model, classes)
    model.load_trained_state(trained)
    model.eval()


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _refuse_difference(old: dict[str, Any], new: dict[str, Any], what: str) -> None:
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if differing:
        spelled = ", ".join(
            f"{name} (there {_short(old.get(name))}, here {_short(new.get(name))})" for name in differing
        )
        raise SteadyClipError(f"{what}: {spelled}. Choose another folder with --out, or train with the same settings.")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
