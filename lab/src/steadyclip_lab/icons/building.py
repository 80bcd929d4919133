"""Builds the data sets from the installed packs: parquet files in the cache folder, the same bytes on every machine.

A file is used as long as it was built from the same pack versions, tables and code format; each is replaced in one
step, so that a build that is stopped leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError, nearest
from steadyclip.core.files import cache_folder, write_atomic
from steadyclip_lab.icons.packs import pack_versions
from steadyclip_lab.icons.render import render
from steadyclip_lab.icons.samples import Sample, plan
from steadyclip_lab.icons.tables import TABLES, read_table, table_bytes
from steadyclip_lab.suite.building import read_about, write_table

FORMAT = 6
"""Raised whenever the code changes what is drawn or written."""

TEMPLATE = "an icon of a {}."
FILES = (*TABLES, "pretrain")
_HELPERS = {"resvg-py": "resvg_py", "emoji": "emoji", "py-phosphor-icons": "py_phosphor_icons"}


def build(cache_dir: str | Path | None = None, progress: bool = True, only: Sequence[str] | None = None) -> Path:
    """Build what is missing or out of date, and return the folder.

    Args:
        cache_dir: by default ``cache_folder()``.
        progress: show a progress bar.
        only: names of data sets, or "pretrain"; by default all.

    Raises:
        DataError: a pack or the renderer is not installed, or the folder cannot be written.
    """
    unknown = next((name for name in only or () if name not in FILES), None)
    if unknown:
        raise DataError(f"no icon data set {unknown!r}.{nearest(unknown, FILES)} There are: {', '.join(FILES)}.")
    folder = Path(cache_dir) if cache_dir is not None else cache_folder()
    versions = _versions()
    stale = [
        name
        for name in (only or FILES)
        if read_about(folder / f"{name}.parquet").get("made_of") != _made_of(name, versions)
    ]
    if stale:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in stale:
                samples = plan(name)
                _write(folder / f"{name}.parquet", name, samples, _drawn(name, samples, progress), versions)
            _write_manifest(folder, versions)
        except OSError as error:
            raise DataError(f"{folder} cannot be written: {error}. Name another folder in STEADYCLIP_CACHE.") from None
    return folder


def built(data_set: str) -> Path:
    """The parquet file of one data set in the default folder, built first if need be."""
    return build(only=(data_set,)) / f"{data_set}.parquet"


def pretraining_pairs() -> Path:
    """The parquet file of the pretraining half in the default folder, built first if need be.

    One row a drawing, black on white: ``image`` and ``text`` (the drawing's name in words), ``caption`` and the rest.
    """
    return build(only=("pretrain",)) / "pretrain.parquet"


def _versions() -> dict[str, str]:
    """Versions of the packs and of what draws and names them."""
    versions = pack_versions()
    for distribution in _HELPERS:
        try:
            versions[distribution] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise DataError(f"{distribution} is not installed: pip install {distribution}.") from None
    return versions


def _made_of(name: str, versions: dict[str, str]) -> str:
    """Hash of everything that decides the bytes of a file."""
    table = hashlib.sha256(table_bytes(name)).hexdigest() if name in TABLES else None
    return hashlib.sha256(json.dumps([FORMAT, name, versions, table], sort_keys=True).encode()).hexdigest()[:16]


def _drawn(name: str, samples: Sequence[Sample], progress: bool) -> Iterator[bytes]:
    images: Iterable[bytes] = (render(sample.drawing, sample.look) for sample in samples)
    if not progress:
        yield from images
        return
    from rich.progress import track

    yield from track(images, description=f"drawing {name}", total=len(samples))


def _write(path: Path, name: str, samples: Sequence[Sample], images: Iterable[bytes], versions: dict[str, str]) -> None:
    columns: dict[str, Iterable[Any]] = {
        "path": [sample.key for sample in samples],
        "image": images,
        "label": [sample.label for sample in samples],
        "split": [sample.split for sample in samples],
        "domain": [sample.domain for sample in samples],
        "caption": [sample.caption for sample in samples],
        "pack": [sample.drawing.pack for sample in samples],
        "style": [sample.drawing.style for sample in samples],
        "drawing": [sample.drawing.name for sample in samples],
    }
    if name == "pretrain":
        columns["text"] = columns["label"]
    about: dict[str, Any] = {"name": name, "made_of": _made_of(name, versions), "templates": [TEMPLATE]}
    if name in TABLES:
        classes = read_table(name)
        about["classes"] = [one.name for one in classes]
        about["second_names"] = {one.name: one.also for one in classes if one.also}
    write_table(path, columns, about)


def _write_manifest(folder: Path, versions: dict[str, str]) -> None:
    """``manifest.json``: for people, what the files in the folder were made of and hold."""
    import pyarrow.parquet as parquet

    files = {}
    for name in FILES:
        path = folder / f"{name}.parquet"
        if path.is_file():
            table = parquet.read_table(path, columns=["label", "split", "domain"])
            rows = zip(table["split"].to_pylist(), table["domain"].to_pylist(), strict=True)
            files[name] = {
                "made_of": read_about(path).get("made_of"),
                "images": table.num_rows,
                "labels": len(set(table["label"].to_pylist())),
                "counts": {f"{split} {domain}": count for (split, domain), count in sorted(Counter(rows).items())},
            }
    text = json.dumps({"format": FORMAT, "versions": versions, "files": files}, indent=2, sort_keys=True) + "\n"
    write_atomic(folder / "manifest.json", text.encode())
