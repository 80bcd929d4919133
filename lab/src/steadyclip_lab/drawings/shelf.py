"""The drawings that the data sets use, as they are shipped: two compressed files of one JSON object a line."""

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


@cache
def shelf() -> tuple[Drawing, ...]:
    """All shipped drawings, in the order of their keys."""
    found = []
    for name in FILES:
        for line in lzma.decompress((FOLDER / name).read_bytes()).decode().splitlines():
            found.append(msgspec.json.decode(line, type=Drawing))
    return tuple(sorted(found, key=lambda one: one.key))


def write_shelf(drawings: Iterable[Drawing], folder: Path = FOLDER) -> list[Path]:
    """Writes the two files anew: the same drawings give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {name: [] for name in FILES}
    for one in sorted(drawings, key=lambda one: one.key):
        data = {key: value for key, value in dataclasses.asdict(one).items() if value not in ((), "")}
        lines[FILES[one.team == "openmoji"]].append(json.dumps(data | {"hash": one.digest}, ensure_ascii=False))
    paths = []
    for name, text in lines.items():
        paths.append(folder / name)
        paths[-1].write_bytes(lzma.compress("\n".join(text).encode(), preset=9 | lzma.PRESET_EXTREME))
    return paths
