"""Builds the data sets: parquet files in the cache folder, the same bytes on every machine.

A file is used as long as it was built from the same drawings, tables, renderer and code format; each is replaced in one
step, so that a build that is stopped leaves the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError, SteadyClipError, nearest
from steadyclip.core.files import cache_folder, owning, replacing
from steadyclip.core.processes import worker_processes
from steadyclip.core.progress import warn
from steadyclip.core.terminal import console
from steadyclip_lab.drawings.captions import caption
from steadyclip_lab.drawings.equal import all_rendered
from steadyclip_lab.drawings.shelf import FILES, FOLDER, POOL, read_drawings
from steadyclip_lab.suite.plan import DATA_SETS, LabSet

FORMAT = 2
"""Raised whenever the code changes what is drawn or written."""
PUBLISHED = Path(__file__).parent / "images.json"
"""SHA-256 over the images of each data set in their order: those that our tables were made with."""
_METADATA_KEY = b"steadyclip"


def build(only: Sequence[str] | None = None, folder: Path | None = None, progress: bool = True) -> Path:
    """Build what is missing or out of date, and return the folder.

    Args:
        only: names of data sets; by default all.
        folder: by default one below ``cache_folder()`` for this version of drawings, tables and renderer, so that two
            versions do not take turns in building each other's files.
        progress: show a progress bar.

    Raises:
        DataError: no such data set, resvg-py is not installed, or the folder cannot be written.
    """
    unknown = next((name for name in only or () if name not in DATA_SETS), None)
    if unknown:
        raise DataError(f"no data set {unknown!r}.{nearest(unknown, DATA_SETS)} There are: {', '.join(DATA_SETS)}.")
    made_of = _made_of()
    folder = folder or _folder(made_of)

    def stale(tell: bool) -> list[LabSet]:
        files = {name: folder / f"{name}.parquet" for name in only or DATA_SETS}
        return [DATA_SETS[name] for name, file in files.items() if _is_stale(file, made_of, tell)]

    lock = folder / "build.lock"
    if stale(tell=True):
        try:  # one process builds, and others wait for what it makes
            folder.mkdir(parents=True, exist_ok=True)
            with owning(lock, wait=True, leave=False), worker_processes(os.cpu_count() or 1) as pool:
                for data_set in stale(tell=False):
                    _write(folder / f"{data_set.name}.parquet", data_set, pool, made_of, progress)
        except DataError:  # a drawing, or a file that says where it was to be written
            raise
        except (OSError, SteadyClipError) as error:
            raise DataError(f"{folder} cannot be written: {error}. Name another folder in STEADYCLIP_CACHE.") from None
    elif lock.exists():
        with contextlib.suppress(SteadyClipError), owning(lock, leave=False):
            pass  # a builder that was killed at its very end left the lock
    return folder


def built(name: str) -> Path:
    """The parquet file of one data set in the default folder, built first if need be."""
    return build(only=(name,)) / f"{name}.parquet"


def built_pool() -> Path:
    """The parquet file of the pool in the default folder, built first if need be: pairs for ``anchors embed``, of
    drawings that no data set uses. Columns ``path``, ``image`` (PNG on a transparent ground), ``text``, ``caption``.
    """
    made_of = _made_of((POOL,))
    path = _folder(made_of) / "lab-pool.parquet"
    if _is_stale(path, made_of):
        drawings = read_drawings(FOLDER / POOL)
        columns = {
            "path": [one.key for one in drawings],
            "image": [png for png, _ in all_rendered(drawings, os.cpu_count() or 1)],
            "text": [one.text for one in drawings],
            "caption": [caption(one) for one in drawings],
        }
        write_table(path, columns, {"name": "lab-pool", "made_of": made_of})
    return path


def _folder(made_of: str) -> Path:
    """Where the files of one version are."""
    return cache_folder() / f"lab-{made_of}"


def _is_stale(path: Path, made_of: str, tell: bool = True) -> bool:
    """The file has to be built; a line says why if there is one."""
    about = read_about(path)
    why = ""
    if not about or not _is_whole(path):
        why = "is damaged"
    elif about.get("name") != path.stem:
        why = f"holds {about.get('name')}"
    elif about.get("made_of") != made_of:
        why = "is of other drawings or another version"
    if why and tell and path.is_file():
        warn(f"{path} {why}, and is built again")
    return bool(why)


def _is_whole(path: Path) -> bool:
    """Every page of the file is as it was written."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        parquet.read_table(path, page_checksum_verification=True, memory_map=True)
    except (OSError, pa.ArrowException):
        return False
    return True


def _made_of(drawings: Sequence[str] = FILES) -> str:
    """Hash of everything that decides the bytes of the files."""
    try:
        renderer = importlib.metadata.version("resvg-py")
    except importlib.metadata.PackageNotFoundError:
        raise DataError("drawings are rendered by resvg-py, which is not installed: pip install resvg-py.") from None
    tables = sorted((Path(__file__).parent / "tables").glob("*.tsv"))
    sources = [path.read_bytes() for path in (*(FOLDER / name for name in drawings), *tables)]
    hashes = [hashlib.sha256(source).hexdigest() for source in sources]
    return hashlib.sha256(json.dumps([FORMAT, renderer, *hashes]).encode()).hexdigest()[:16]


def _drawn(name: str, label: str) -> list[bytes]:
    """The images of a class, in a worker process: what is sent there is two names."""
    return [sample.image() for sample in DATA_SETS[name].samples(label)]


def _images(data_set: LabSet, pool: Executor, progress: bool) -> Iterator[bytes]:
    classes = data_set.classes
    found: Iterable[list[bytes]] = pool.map(_drawn, [data_set.name] * len(classes), classes)
    if progress:
        from rich.progress import track

        found = track(found, description=f"drawing {data_set.name}", total=len(classes), console=console())
    for images in found:
        yield from images


def _write(path: Path, data_set: LabSet, pool: Executor, made_of: str, progress: bool) -> None:
    samples = [sample for label in data_set.classes for sample in data_set.samples(label)]
    hashed = hashlib.sha256()

    def images() -> Iterator[bytes]:
        for image in _images(data_set, pool, progress):
            hashed.update(image)
            yield image

    columns = {
        "path": [sample.key for sample in samples],
        "image": images(),
        "label": [sample.label for sample in samples],
        "split": [sample.split for sample in samples],
        "domain": [sample.domain for sample in samples],
        "caption": [sample.caption for sample in samples],
        "group": [sample.drawing.key for sample in samples],
    }
    about = {"name": data_set.name, "made_of": made_of, "templates": [data_set.template], "classes": data_set.classes}
    write_table(path, columns, about)
    if hashed.hexdigest() != json.loads(PUBLISHED.read_text()).get(data_set.name, hashed.hexdigest()):
        warn(
            f"{data_set.name} has other images here than where the published tables were made, by another version of "
            f"resvg-py ({importlib.metadata.version('resvg-py')} here) or another processor: compare with your own runs"
        )


def write_table(path: Path, columns: dict[str, Iterable[Any]], about: dict[str, Any]) -> None:
    """Writes a data set to a parquet file in one step: the column ``image`` holds bytes, ``about`` is the metadata.

    Raises:
        DataError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = pa.table(columns | {"image": pa.array(columns["image"], pa.binary())})
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(about)})
    try:
        with replacing(path) as temporary:
            # PNG does not compress further; without a codec the bytes do not depend on the codec's version
            parquet.write_table(table, temporary, compression="none", write_page_checksum=True)
    except SteadyClipError as error:
        raise DataError(f"{error} Name another folder in STEADYCLIP_CACHE.") from None


def read_about(path: Path) -> dict[str, Any]:
    """The metadata that ``write_table`` left in a file; empty when there is no such file."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if not path.is_file():
        return {}
    try:
        about = json.loads((parquet.read_schema(path).metadata or {}).get(_METADATA_KEY, b"{}"))
    except (OSError, pa.ArrowException, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}
