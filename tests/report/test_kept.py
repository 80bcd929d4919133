"""The records that the repository keeps, and the program that packs them: ``recipes/records.py``."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from steadyclip.evaluation.records import Record, load_records
from steadyclip.report.results import results
from steadyclip.report.tables import main_table

ROOT = Path(__file__).parents[2]
KEPT = sorted((ROOT / "results").glob("*-records.tar.xz"))


def _program():
    spec = importlib.util.spec_from_file_location("records", ROOT / "recipes" / "records.py")
    assert spec
    assert spec.loader
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


program = _program()


@pytest.fixture
def runs(experiment: list[Record], tmp_path: Path) -> Path:
    for number, record in enumerate(experiment):
        record.write(tmp_path / "runs" / f"cell-{number}" / "records" / record.file_name)
    return tmp_path / "runs"


def test_kept_records_make_the_same_table(experiment: list[Record], runs: Path, tmp_path: Path) -> None:
    archive, back = tmp_path / "kept.tar.xz", tmp_path / "back"
    assert program.pack(runs, archive) == program.unpack(archive, back) == len(experiment)
    found = load_records(back)
    assert results(found) == results(experiment)
    assert main_table(found).markdown() == main_table(load_records(runs)).markdown()
    assert any(record.confusions for record in found)
    assert not any(pair.examples for record in found for pair in record.confusions)
    assert archive.stat().st_size < sum(file.stat().st_size for file in runs.rglob("*.json")) / 20


def test_packing_adds_and_repeats_to_the_byte(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    first, *others = sorted(runs.iterdir())
    assert program.pack(runs, archive) == len(others) + 1
    whole = archive.read_bytes()
    program.unpack(archive, tmp_path / "back")
    program.pack(tmp_path / "back", tmp_path / "again.tar.xz")
    assert (tmp_path / "again.tar.xz").read_bytes() == whole
    for cell in others:
        (cell / "records" / next((cell / "records").iterdir()).name).unlink()
    assert program.pack(runs, archive) == len(others) + 1, "what the folder lacks stays"
    assert archive.read_bytes() == whole
    (changed,) = (first / "records").iterdir()
    replace(Record.read(changed), seconds=99.0).write(changed)
    program.unpack(archive, runs)
    assert Record.read(changed).seconds == 99.0, "what is there is not written over"


@pytest.mark.parametrize("name", ["../records/x.json", "/a/records/x.json", "cell/x.json", "cell/other/x.json"])
def test_an_archive_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(tarfile.TarError, match="which is no record"):
        program.unpack(archive, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("archive", KEPT, ids=lambda file: file.name)
def test_the_tables_of_the_repository_are_those_of_its_records(archive: Path, tmp_path: Path) -> None:
    program.unpack(archive, tmp_path)
    printed = archive.with_name(archive.name.replace("-records.tar.xz", ".csv")).read_text(encoding="utf-8")
    assert results(load_records(tmp_path)) == printed
