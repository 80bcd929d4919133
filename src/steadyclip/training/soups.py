"""Soups: one run from the averaged weights of several.

Source: Wortsman et al. 2022 (Model soups, arXiv 2203.05482) for the uniform and the greedy one; Jang et al. 2024 (Model
Stock, arXiv 2403.19522), in the formula for several models, tensor by tensor.

Shapes: K runs.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from msgspec.structs import replace
from torch import Tensor

from steadyclip.core.errors import DataError, ModelError, UsageError, some
from steadyclip.core.files import file_digest
from steadyclip.core.provenance import commit, now, versions
from steadyclip.data.task import read_split
from steadyclip.evaluation.records import Results, Run, Soup
from steadyclip.training.checkpoint import read_tensors
from steadyclip.training.run import RunFolder, check_files, digest, load_run

if TYPE_CHECKING:
    from steadyclip.data import ImageData
    from steadyclip.methods.base import Method
    from steadyclip.models import DualEncoder

How = Literal["uniform", "greedy", "stock"]
State = Mapping[str, Tensor]


def soup(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    how: How = "uniform",
    data: ImageData | None = None,
    model: DualEncoder | None = None,
    device: str = "cpu",
    **options: Any,
) -> Run:
    """Average the weights of finished runs of one method; the result is a run like any other.

    Images that any of the runs was trained on count as trained on, so that no test image of the result is one of them.

    Args:
        runs: two folders or more: the same model, method and classes; recipes, settings and images may differ.
        out: folder of the result.
        how: "uniform" takes the mean. "greedy" starts from the run with the best top-1 on validation images, and takes
            each other one, from the best to the worst, if the top-1 of the mean rises strictly. "stock" moves the mean
            towards the pretrained weights, the more the less the runs agree.
        data: the data of the runs; "greedy" needs its validation images.
        model: the pretrained model, freshly loaded; by default it is loaded by the name in the runs.
        device: where validation images are scored.
        options: as for ``evaluate``.

    Raises:
        UsageError: fewer than two runs, or runs that cannot be averaged.
        SteadyClipError: a run is not finished, or its files were changed or damaged, or ``out`` holds another run.
    """
    paths = list(map(Path, runs))
    if len(paths) < 2:
        raise UsageError("a soup takes two runs or more.")
    if again := [path for path, other in itertools.combinations(paths, 2) if path.resolve() == other.resolve()]:
        raise UsageError(f"{again[0]} is given twice: a soup takes different runs.")
    model, method, first = load_run(paths[0], model=model, device=device)
    _check(method, how)
    found = [first, *(Run.read(path / "run.json") for path in paths[1:])]
    for path, run in zip(paths[1:], found[1:], strict=True):
        _check_same(paths[0], first, path, run)
        check_files(run, path)
    _check_distinct(paths)
    split = _united([read_split(path / "split.json") for path in paths])
    run = _describe(found, how, split)
    folder = RunFolder(Path(out), run)
    if folder.run.finished:
        return folder.run
    states = [read_tensors(path / "trained.safetensors") for path in paths]
    for path, state in zip(paths[1:], states[1:], strict=True):
        _check_tensors(paths[0], states[0], path, state)
    choices: dict[str, Any] = {}
    if how == "greedy":
        state, choices = _greedy(model, method, states, split, data, options)
    else:
        state = mean(states) if how == "uniform" else stock(states, model.pretrained_state())
    folder.start(split)
    ingredients = [run.results for run in found if run.results]
    folder.finish(
        dict(state),
        Results(
            steps=sum(one.steps for one in ingredients), seconds=sum(one.seconds for one in ingredients),
            images_per_second=None, device=model.device.type, threads=torch.get_num_threads(), choices=choices,
        ),
    )  # fmt: skip
    return folder.run


def mean(states: Sequence[State]) -> dict[str, Tensor]:
    """The mean of each tensor."""
    return {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}


def stock(states: Sequence[State], start: State) -> dict[str, Tensor]:
    """t mean_k w_k + (1 - t) w_0, t = K c / (1 + (K - 1) c), for each tensor; c is the mean cosine of two w_k - w_0.

    Where c is below 0, or nothing has moved, t is 0. One state is its own mean.
    """
    if len(states) == 1:
        return mean(states)
    found = {}
    for name, middle in mean(states).items():
        origin = start[name].to(middle)
        moved_KN = torch.stack([(state[name] - origin).flatten().double() for state in states])
        moved_KN = torch.nn.functional.normalize(moved_KN, dim=-1)
        K, all_pairs = len(states), (moved_KN @ moved_KN.T).triu(1).sum()
        cosine = (all_pairs / (K * (K - 1) / 2)).clamp(min=0)
        found[name] = torch.lerp(origin, middle, (K * cosine / (1 + (K - 1) * cosine)).to(middle))
    return found


def _greedy(
    model: DualEncoder,
    method: Method,
    states: Sequence[State],
    split: dict[str, Any],
    data: ImageData | None,
    options: dict[str, Any],
) -> tuple[State, dict[str, Any]]:
    """The state, and which runs went into it with the accuracies that decided."""
    from steadyclip.evaluation import evaluate

    if data is None:
        raise UsageError("a greedy soup is chosen on validation images: give the data of the runs.")
    val = data.restore(split).val
    if not len(val):
        raise DataError(f"the runs on {data.name} have no validation images: use another kind of soup.")

    def top1(state: State) -> float:
        model.load_trained_state(dict(state))
        metrics = evaluate(model, method, val, **options).metrics
        assert metrics is not None
        return metrics.top1

    alone = [top1(state) for state in states]
    order = sorted(range(len(states)), key=lambda k: -alone[k])
    kept, best = order[:1], alone[order[0]]
    for k in order[1:]:
        if (more := top1(mean([states[i] for i in [*kept, k]]))) > best:
            kept, best = [*kept, k], more
    choices = {"kept": sorted(kept), "validation": best, "alone": alone, "images": len(val)}
    return mean([states[k] for k in sorted(kept)]), choices


def _check(method: Method, how: How) -> None:
    """Raises UsageError where averages of what was trained mean nothing."""
    if not (method.adapters and all(adapter.own_weights for adapter in method.adapters) and method.head.mergeable):
        raise UsageError(
            f"a soup averages the model's own weights, and {method.name} trains others: a mean of adapters is not what "
            "the mean of their weights does."
        )
    if how == "stock" and not method.averages:
        raise UsageError(
            f"{method.name} trains a head too, which does not start as the zero-shot classifier: use another kind."
        )


def _check_same(first_path: Path, first: Run, path: Path, run: Run) -> None:
    """Raises UsageError where the two cannot be averaged, naming what differs."""
    if not run.finished:
        raise UsageError(f"{path} is not finished: give its `steadyclip train` command again to go on.")
    facts = {
        "model": lambda one: (one.model.name, one.model.weights_hash),
        "method": lambda one: one.method.name,
        "knobs": lambda one: (one.method.knobs, one.method.files),
        "classes": lambda one: one.task.classes,
        "prompts": lambda one: one.task.templates,
    }
    if differing := [name for name, fact in facts.items() if fact(first) != fact(run)]:
        raise UsageError(
            f"{first_path} and {path} differ in {' and '.join(differing)}: a soup takes runs of one model, method and "
            "set of classes."
        )


def _check_distinct(paths: Sequence[Path]) -> None:
    """Raises UsageError where two folders hold the same weights, as a copied folder does."""
    seen: dict[str, Path] = {}
    for path in paths:
        if not (path / "trained.safetensors").is_file():
            continue  # reading it says more
        if (other := seen.setdefault(file_digest(path / "trained.safetensors"), path)) != path:
            raise UsageError(f"{other} and {path} hold the same weights: a soup takes different runs.")


def _check_tensors(first_path: Path, first: State, path: Path, state: State) -> None:
    """Raises ModelError where the weights of two runs are not of the same names and shapes."""
    shapes, others = ({name: tuple(value.shape) for name, value in one.items()} for one in (first, state))
    if differing := sorted(name for name in shapes | others if shapes.get(name) != others.get(name)):
        raise ModelError(
            f"{first_path} and {path} hold weights of other names or shapes ({some(differing)}): one of them is "
            "damaged, train it again."
        )


def _united(splits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What any of them has trained on, and what others have validated on."""
    train = {tuple(entry): entry for split in splits for entry in split["train"]}
    trained = {digest for _, _, digest in train}
    val = {tuple(entry): entry for split in splits for entry in split["val"] if entry[2] not in trained}
    shown = sorted({digest for split in splits for digest in split.get("shown", ())})
    more = {"shown": shown} if shown else {}
    return {**splits[0], "train": list(train.values()), "val": list(val.values()), **more}


def _describe(runs: Sequence[Run], how: How, split: dict[str, Any]) -> Run:
    first = runs[0]
    contents = [run.task.content for run in runs]
    content = first.task.content
    if len(set(contents)) > 1:
        content = hashlib.sha256("".join(sorted(set(contents))).encode()).hexdigest()[: len(content)]
    task = replace(first.task, content=content, train_images=len(split["train"]), val_images=len(split["val"]))
    method = replace(first.method, label=f"{how} soup of {len(runs)} {first.method.label}")
    return replace(
        first, created=now(), completed=None, results=None, task=task, method=method,
        soup=Soup(how, tuple(map(digest, runs))), versions=versions(), commit=commit(),
    )  # fmt: skip
