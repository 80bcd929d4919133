"""Split files: small JSON with relative paths, which say exactly what a run was trained on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError
from steadyclip.data.task import ImageTask

_FIELDS = {"data", "subset", "shots", "seed", "classes", "train", "val"}


def write_split(task: ImageTask, path: Path) -> None:
    """Write ``task.split_json()`` to ``path``, one image a line; a file is replaced at once or not at all."""
    split = task.split_json()
    fields = []
    for name, value in split.items():
        if name in ("train", "val"):
            rows = ",\n  ".join(json.dumps(pair, ensure_ascii=False) for pair in value)
            text = f"[\n  {rows}\n ]" if rows else "[]"
        else:
            text = json.dumps(value, ensure_ascii=False)
        fields.append(f" {json.dumps(name)}: {text}")
    body = "{\n" + ",\n".join(fields) + "\n}\n"
    part = path.with_name(path.name + ".part")
    part.write_text(body, encoding="utf-8")
    os.replace(part, path)


def read_split(path: Path) -> dict[str, Any]:
    """A split file as ``ImageData.restore`` takes it.

    Raises:
        DataError: not there, or not a split file.
    """
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a split file: {error}") from None
    if not isinstance(split, dict) or split.get("kind") != "split" or not split.keys() >= _FIELDS:
        raise DataError(f"{path} is not a split file of steadyclip (kind 'split' with {', '.join(sorted(_FIELDS))}).")
    return split
