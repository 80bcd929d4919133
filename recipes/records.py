"""Keeps what a table is made of: its records in one small file, from which it can be made again without a training.

    python recipes/records.py pack RUNS results/suite-records.tar.xz
    python recipes/records.py unpack results/suite-records.tar.xz RUNS
    python recipes/records.py keep RUNS suite             packs, and writes results/suite.csv and the paired differences
    python recipes/records.py differences RUNS suite-report        those of a suite alone
    python recipes/records.py differences RUNS NAME=lab-food,lab-logos    those of some data sets, as results/NAME-...

`steadyclip bench --out RUNS` trains no cell whose records are there, so an unpacked table is continued: with further
seeds, or with a row of your own, which is then paired with the others on the same test images. Kept is what tables,
intervals and charts are made from; the pictures of wrongly classified images are left out, as they would be most of
the file. A packed file is added to, never thinned out: records that it has and RUNS lacks stay, and `keep` unpacks
them there.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import re
import tarfile
from pathlib import Path

from msgspec.structs import replace

from steadyclip.core.errors import DataError, SteadyClipError, UsageError
from steadyclip.core.files import write_atomic
from steadyclip.data.suites import find_suite
from steadyclip.evaluation.records import Record, load_records
from steadyclip.report import main_table
from steadyclip.report.results import differences, results

_PLACE = re.compile(r"(?!\.\.?/)[^/\\]+/records/[^/\\]+\.json")
RESULTS = Path(__file__).parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = {"pack": pack, "unpack": unpack, "keep": keep, "differences": of_suite}
    parser.add_argument("action", choices=actions)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    try:
        count = actions[options.action](options.source, options.target)
    except (SteadyClipError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{options.action}: {count} records, {options.target}")


def keep(runs: Path, name: Path) -> int:
    """``results/NAME-records.tar.xz`` and ``.csv``, and the paired differences, from all that is in either place."""
    if len(name.parts) != 1 or name.name == "..":
        raise UsageError(f"{name} is no plain name of a table in results.")
    archive = RESULTS / f"{name}-records.tar.xz"
    pack(runs, archive)
    unpack(archive, runs)
    records = load_records(runs)
    write_atomic(RESULTS / f"{name}.csv", results(records).encode())
    _differences(records, str(name))
    return len(records)


def of_suite(runs: Path, name: Path) -> int:
    """``results/NAME-differences.csv``, over the data sets of the suite NAME alone, or those behind NAME=."""
    file, _, listed = str(name).partition("=")
    suite = find_suite(file)
    if suite is None and not listed:
        raise UsageError(f"there is no suite {file!r}.")
    members = listed.split(",") if listed else suite.members if suite else ()
    records = [record for record in load_records(runs) if record.data.name in members]
    if lacking := sorted({*members} - {record.data.name for record in records}):
        raise UsageError(f"{runs} holds no records of {', '.join(lacking)}.")
    _differences(records, file)
    return len(records)


def _differences(records: list[Record], name: str) -> None:
    table = main_table(records)
    if table.differences:
        write_atomic(RESULTS / f"{name}-differences.csv", differences(table).encode())


def pack(runs: Path, archive: Path) -> int:
    """Add the records of a grid's folder to the archive; the same records give the same bytes. Returns its count."""
    kept = contents(archive) if archive.exists() else {}
    files = sorted(runs.glob("*/records/*.json"))
    if not files:
        raise UsageError(f"{runs} holds no records: name the --out of a `steadyclip bench`.")
    for file in files:
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
    """The records in the archive, by their place CELL/records/NAME.json.

    Raises:
        DataError: it is damaged, or holds anything else.
    """
    found = {}
    try:
        with tarfile.open(archive, "r:xz") as tar:
            for member in tar:
                stream = tar.extractfile(member) if _PLACE.fullmatch(member.name) and member.isfile() else None
                if stream is None:
                    raise DataError(f"{archive} holds {member.name}, which is no record: name another file.")
                found[member.name] = stream.read()
                Record.from_content(json.loads(found[member.name]), f"{archive}: {member.name}")
    except ValueError as error:
        raise DataError(f"{archive} holds a file that is no JSON: {error}.") from None
    except (tarfile.TarError, lzma.LZMAError, EOFError) as error:
        raise DataError(f"{archive} is no archive of records, or damaged: {error}.") from None
    return found


if __name__ == "__main__":
    main()
