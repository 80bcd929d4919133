"""Predictions as a table: CSV and JSON lines, written line by line so that a stopped job can go on, JSON, parquet."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from steadyclip.core import files
from steadyclip.core.errors import DataError, UsageError
from steadyclip.core.files import csv_text, without_apostrophe
from steadyclip.deploy.predictor import Prediction

LINES = (".csv", ".jsonl")
FORMATS = (*LINES, ".json", ".parquet")
Write = Callable[[Prediction], None]


def columns(top: int) -> list[str]:
    """Of CSV and parquet. ``model`` is a hash of everything that decides the answers."""
    numbered = [f"{what}_{place}" for place in range(1, top + 1) for what in ("label", "score")]
    return ["path", "label", "score", *numbered, "error", "model"]


def as_row(prediction: Prediction, top: int, model: str) -> dict[str, Any]:
    """A prediction by ``columns``; None where there is nothing."""
    row: dict[str, Any] = dict.fromkeys(columns(top))
    row |= {"path": prediction.path, "label": prediction.label, "error": prediction.error, "model": model}
    if not prediction.error:
        row["score"] = prediction.score
        for place, (name, value) in enumerate(zip(prediction.names, prediction.probabilities, strict=True), start=1):
            row |= {f"label_{place}": name, f"score_{place}": value}
    return row


def as_object(prediction: Prediction, model: str) -> dict[str, Any]:
    """A prediction as JSON: names and probabilities are lists."""
    found = {name: getattr(prediction, name) for name in ("path", "label", "score", "names", "probabilities", "error")}
    return found | {"score": None if prediction.error else prediction.score, "model": model}


def line_of(prediction: Prediction, kind: str, top: int, model: str) -> str:
    """One line of a file of the kind ".csv" or ".jsonl"."""
    if kind == ".jsonl":
        return json.dumps(as_object(prediction, model), ensure_ascii=False) + "\n"
    return csv_text([[_cell(value) for value in as_row(prediction, top, model).values()]])


def header_of(kind: str, top: int) -> str:
    """The first line of such a file."""
    return csv_text([columns(top)]) if kind == ".csv" else ""


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else value


def check_file(path: Path, resume: bool, force: bool) -> None:
    """See that predictions can be written to ``path``.

    Raises:
        UsageError: an unknown ending, one that cannot be resumed, or a file that is there.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"--out {path}: the ending must be one of {', '.join(FORMATS)}.")
    if resume and path.suffix.lower() not in LINES:
        raise UsageError(f"--resume goes on with {' and '.join(LINES)} files, which are written line by line.")
    if path.exists() and not (resume or force):
        how = "--resume goes on with it, --force" if path.suffix.lower() in LINES else "--force"
        raise UsageError(f"--out {path} is there already: {how} writes it anew.")


def done_before(path: Path, images: Sequence[str], top: int, model: str) -> set[str]:
    """Those of ``images`` that are in ``path`` already; what was being written when it was stopped is cut off.

    Raises:
        DataError: the file is of another model, other settings, or another kind.
    """
    kind = path.suffix.lower()
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            rows = list(_rows(whole.decode(), kind, top))
            done = {without_apostrophe(row["path"]) if kind == ".csv" else row["path"] for row in rows}
            if others := {row["model"] for row in rows} - {model}:
                raise DataError(
                    f"{path} holds answers of another model, other names or another calibration ({others.pop()}, here "
                    f"{model}): name another --out."
                )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error):
            raise DataError(
                f"{path} is no {kind} file of predictions with --top {top}: name another --out, or the same --top."
            ) from None
        if len(whole) < len(content):
            with path.open("rb+") as file:
                file.truncate(len(whole))
        return done
    return set()


def _rows(text: str, kind: str, top: int) -> Iterator[dict[str, Any]]:
    if kind == ".jsonl":
        yield from map(json.loads, text.splitlines())
        return
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if text and reader.fieldnames != columns(top):
        raise ValueError("other columns")
    yield from reader


@contextlib.contextmanager
def writing(path: Path, top: int, model: str, *, resume: bool = False) -> Iterator[Write]:
    """Gives a function that writes a prediction to ``path``, in the format of its ending.

    Raises:
        SteadyClipError: it cannot be written.
    """
    kind = path.suffix.lower()
    if kind in LINES:
        with files.writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a" if resume else "w", encoding="utf-8", newline="")
        with file:
            write = _line_writer(file, path, kind, top, model)
            if not file.tell():
                write(None)
            yield write
        return
    found: list[Prediction] = []
    yield found.append
    with files.replacing(path) as temporary:
        if kind == ".json":
            objects = [as_object(prediction, model) for prediction in found]
            temporary.write_text(json.dumps(objects, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        else:
            _write_parquet(temporary, [as_row(prediction, top, model) for prediction in found], top)


def _line_writer(file: IO[str], path: Path, kind: str, top: int, model: str) -> Callable[[Prediction | None], None]:
    """Writes the line of a prediction, or the header."""

    def write(prediction: Prediction | None) -> None:
        with files.writing(path):
            file.write(line_of(prediction, kind, top, model) if prediction else header_of(kind, top))
            file.flush()

    return write


def _write_parquet(path: Path, rows: list[dict[str, Any]], top: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    fields = [(name, pa.float32() if name.startswith("score") else pa.string()) for name in columns(top)]
    parquet.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)
