"""Keeps the records behind a table in one small file, from which the table can be made again without a training.

    python recipes/records.py pack RUNS results/suite-records.tar.xz
    python recipes/records.py unpack results/suite-records.tar.xz RUNS

`steadyclip bench --out RUNS` trains no cell whose records are there, so an unpacked table is continued: with further
seeds, or with a row of your own, which is then paired with the others on the same test images. Kept is what tables,
intervals and charts are made from; the pictures of wrongly classified images are left out, as they would be most of
the file. A packed file is added to, never thinned out: records that it has and RUNS lacks stay.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from pathlib import Path

from msgspec.structs import replace

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import write_atomic
from steadyclip.evaluation.records import Record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("pack", "unpack"))
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    try:
        count = {"pack": pack, "unpack": unpack}[options.action](options.source, options.target)
    except (SteadyClipError, OSError, tarfile.TarError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{count} records in {options.target}")


def pack(runs: Path, archive: Path) -> int:
    """Add the records of a grid's folder to the archive; the same records give the same bytes. Returns its count."""
    kept = contents(archive) if archive.exists() else {}
    for file in sorted(runs.glob("*/records/*.json")):
        record = Record.read(file)
        bare = replace(record, confusions=tuple(replace(pair, examples=()) for pair in record.confusions))
        kept[file.relative_to(runs).as_posix()] = bare.to_json().encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as tar:
        for name, content in sorted(kept.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    write_atomic(archive, packed.getvalue())
    return len(kept)


def unpack(archive: Path, runs: Path) -> int:
    """Write the records of the archive where the grid's folder lacks them. Returns how many the archive has."""
    kept = contents(archive)
    for name, content in kept.items():
        if not (file := runs / name).exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, content)
    return len(kept)


def contents(archive: Path) -> dict[str, bytes]:
    """The records in the archive, by their place CELL/records/NAME.json; other members are refused."""
    found = {}
    with tarfile.open(archive, "r:xz") as tar:
        for member in tar:
            path = Path(member.name)
            if not member.isfile() or len(path.parts) != 3 or ".." in path.parts or path.parts[1] != "records":
                raise tarfile.TarError(f"{archive} holds {member.name}, which is no record: name another file.")
            stream = tar.extractfile(member)
            assert stream is not None
            found[member.name] = stream.read()
    return found


if __name__ == "__main__":
    main()
