"""The drawings that are shipped, in compressed files of one JSON object a line: the shelf, which the data sets use, and
the pool, which no data set uses."""

from __future__ import annotations

import dataclasses
import json
import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec

from steadyclip_lab.drawings.sets import Drawing

FOLDER = Path(__file__).parent / "shipped"
FILES = ("drawings.jsonl.xz", "openmoji.jsonl.xz")
"""OpenMoji (CC BY-SA 4.0) has a file of its own."""


POOL = "pool.jsonl.xz"
"""A sixteenth of the pretraining drawings, by their hash."""


@cache
def shelf() -> tuple[Drawing, ...]:
    """The drawings of the data sets, in the order of their keys."""
    return tuple(sorted((one for name in FILES for one in read_drawings(FOLDER / name)), key=lambda one: one.key))


def read_drawings(path: Path) -> list[Drawing]:
    """The drawings in one file."""
    lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    return [msgspec.json.decode(line, type=Drawing) for line in lines]


def write_shelf(drawings: Iterable[Drawing], folder: Path = FOLDER) -> list[Path]:
    """Writes the files of the shelf anew."""
    parts: dict[str, list[Drawing]] = {name: [] for name in FILES}
    for one in drawings:
        parts[FILES[one.team == "openmoji"]].append(one)
    return [write_drawings(part, folder / name) for name, part in parts.items()]


def write_drawings(drawings: Iterable[Drawing], path: Path) -> Path:
    """Writes one file: the same drawings give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for one in sorted(drawings, key=lambda one: one.key):
        data = {key: value for key, value in dataclasses.asdict(one).items() if value not in ((), "")}
        lines.append(json.dumps(data | {"hash": one.digest}, ensure_ascii=False))
    path.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    return path
