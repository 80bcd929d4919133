"""The records that the repository keeps, and the program that packs them: ``recipes/records.py``."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import pytest
from msgspec.structs import replace

from steadyclip.core.errors import DataError, UsageError
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


OTHERS = (
    "../records/x.json",
    "/a/records/x.json",
    "/records/x.json",
    "cell/x.json",
    "cell/other/x.json",
    "cell/records/x.sh",
)


@pytest.mark.parametrize("name", OTHERS)
def test_an_archive_of_something_else_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(DataError, match="which is no record"):
        program.unpack(archive, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("content", "said"), [(b"no json", "no JSON"), (b"[]", "is not"), (b"{}", "is not")])
def test_a_member_that_is_no_record_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        member = tarfile.TarInfo("cell/records/x.json")
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=rf"kept\.tar\.xz.* {said}"):
        program.unpack(archive, tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_cut_archive_and_a_wrong_folder_are_one_line(runs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "kept.tar.xz"
    program.pack(runs, archive)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"kept\.tar\.xz is no archive of records, or damaged"):
        program.unpack(archive, tmp_path / "back")
    with pytest.raises(UsageError, match="typo holds no records"):
        program.pack(tmp_path / "typo", tmp_path / "other.tar.xz")
    with pytest.raises(UsageError, match="no plain name"):
        program.keep(runs, Path("../elsewhere"))
    assert not (tmp_path / "typo").exists()
    assert not (tmp_path / "other.tar.xz").exists()


@pytest.mark.parametrize("archive", KEPT, ids=lambda file: file.name)
def test_the_tables_of_the_repository_are_those_of_its_records(archive: Path, tmp_path: Path) -> None:
    program.unpack(archive, tmp_path)
    printed = archive.with_name(archive.name.replace("-records.tar.xz", ".csv")).read_text(encoding="utf-8")
    assert results(load_records(tmp_path)) == printed
