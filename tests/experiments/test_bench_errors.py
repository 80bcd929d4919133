"""`steadyclip bench` and `report` on folders and records that are not as they should be: each mistake is one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from steadyclip.cli import main

LORA = "lora[steps=2,batch_size=6]"


def bench(world: Path, out: Path, *more: str) -> int:
    words = f"bench base-to-new --data {world / 'photos'} --model {world / 'model'} --out {out} --no-progress"
    return main([*words.split(), "--device", "cpu", "--methods", "zero-shot", *more])


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--seeds", "1", "2", "1"], "--seeds: 1 is given twice, leave one out"),
        (["--seeds", "-1"], "--seeds must be 0 or more, not -1"),
        (["--shots"], "--shots needs at least one value"),
        (["--shots", "0"], "--shots must be 1 or more, not 0"),  # even where nothing learns
        (["--shots", "4", "-1"], "--shots must be 1 or more, not -1"),
        (["--shots", "4", "1", "4"], "--shots: 4 is given twice"),
        (["--data"], "--data needs at least one value"),
        (["--data", "icons", "icons"], "--data: icons is given twice"),
        (["--targets", "emoji", "emoji"], "--targets: emoji is given twice"),
        (["--jobs", "-2"], "--jobs must be 1 or more, not -2"),
        (["--workers", "-1"], "--workers must be 0 or more, not -1"),
        (["zero-shot"], "row 'zero-shot' is given twice: leave one out"),
    ],
)
def test_numbers_and_repetitions(more: list[str], line: str, world: Path, tmp_path: Path, capsys) -> None:
    assert bench(world, tmp_path / "out", *more) == 2
    assert line in the_line(capsys)
    assert not (tmp_path / "out").exists()


def test_out_is_a_file(world: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "out"
    file.write_text("mine")
    assert bench(world, file) == 2
    assert f"--out {file} is a file: name another folder" in the_line(capsys)
    assert bench(world, file / "below") == 2
    assert f"--out {file / 'below'} cannot be written to (Not a directory): name another folder" in the_line(capsys)
    assert file.read_text() == "mine"


def test_out_cannot_be_written_to(world: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    if os.access(out, os.W_OK):  # nothing is forbidden to root

        def refuse(**_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert bench(world, out) == 2
    assert f"--out {out} cannot be written to (Permission denied): name another folder" in the_line(capsys)


def test_records_of_other_versions_and_broken_ones(world: Path, tmp_path: Path, capsys) -> None:
    out, page = tmp_path / "out", str(tmp_path / "page.html")
    assert bench(world, out, LORA, "--seeds", "1") == 0
    newer, broken = sorted(out.glob("lora*/records/*.json"))
    good = newer.read_text()
    newer.write_text(json.dumps({**json.loads(good), "schema": 3}))
    capsys.readouterr()
    assert main(["report", str(out), "--out", page]) == 1
    assert f"{newer}: field 'schema' is 3 and this version reads 2: use the version that" in the_line(capsys)
    broken.write_text(broken.read_text()[:100])
    trained = {path: path.stat().st_mtime_ns for path in out.glob("lora*/trained.safetensors")}
    assert bench(world, out, LORA, "--seeds", "1") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scored again: ")]
    assert len(said) == 2
    assert str(newer) in said[0]
    assert "'schema' is 3" in said[0]
    assert f"{broken} is not a JSON file" in said[1]
    assert json.loads(newer.read_text())["per_class"] == json.loads(good)["per_class"]
    assert {path: path.stat().st_mtime_ns for path in trained} == trained
    assert main(["report", str(out), "--out", page]) == 0


def test_a_record_of_another_cell_is_not_believed(world: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert bench(world, out, LORA, "--seeds", "1", "2") == 0
    before = {file: file.read_text() for file in out.glob("lora*/records/*.json")}
    base, new, _, other = sorted(before)
    base.write_text(before[new])  # of the other half
    new.write_text(before[other])  # of the other seed
    capsys.readouterr()
    assert bench(world, out, LORA, "--seeds", "1", "2") == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("scored again: ")]
    assert sorted(said) == [f"scored again: {file} holds what was measured elsewhere." for file in (base, new)]
    for file, old in before.items():
        assert json.loads(file.read_text())["per_class"] == json.loads(old)["per_class"]


def test_a_run_of_another_kind_fails_its_cell_only(world: Path, tmp_path: Path, capsys) -> None:
    assert bench(world, tmp_path, LORA, "--seeds", "1") == 0
    (run,) = tmp_path.glob("lora*/run.json")
    run.write_text('{"kind": "ru')
    for record in run.parent.glob("records/*.json"):
        record.unlink()
    capsys.readouterr()
    assert bench(world, tmp_path, LORA, "--seeds", "1") == 1
    line = the_line(capsys)
    assert line.startswith("error: 1 cell failed; the same command again tries only this. lora[steps=2,batch_size=6]")
    assert f"{run} is not a JSON file" in line


def test_processes_of_torchrun_are_no_grid(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["bench", "base-to-new"]) == 2
    assert "without torchrun, with --jobs N" in the_line(capsys)
