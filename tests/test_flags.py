"""Help that fits a screen, options from a file, and the file that a run leaves."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from steadyclip.cli import COMMANDS, main, parse
from steadyclip.commands.flags import config_text, flags_of
from steadyclip.models.testing import write_tiny

SCREEN = 40
REQUIRED = {"tune": "x", "train": "--data x", "evaluate": "r --data x", "bench": "few-shot", "report": "r"}


def shown(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(words.split())
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("data", "anchors", "runs")])
def test_help_fits_a_screen_and_hides_nothing_for_good(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    short, every = shown(f"{name} --help", capsys), shown(f"{name} --help-all", capsys)
    lines = short.splitlines()
    assert len(lines) <= SCREEN
    for flag, about in flags_of(COMMANDS[name]).items():
        if not about.positional:
            spelled = f"--{flag}".replace("_", "-")
            assert spelled in every
            hidden = flag not in getattr(COMMANDS[name], "common", [flag])
            assert any(line.lstrip("│| ").startswith((f"{spelled} ", f"{spelled},")) for line in lines) is not hidden
    if hasattr(COMMANDS[name], "common"):
        assert f"more options: steadyclip {name} --help-all" in short
        assert set(COMMANDS[name].common) <= flags_of(COMMANDS[name]).keys()


@pytest.mark.parametrize("name", REQUIRED)
def test_examples_can_be_typed(name: str) -> None:
    import shlex

    for line in COMMANDS[name].examples:
        program, *words = shlex.split(line)
        assert program == "steadyclip"
        assert isinstance(parse(words), COMMANDS[name])


@pytest.mark.parametrize("name", REQUIRED)
def test_a_printed_config_gives_the_same_command(name: str, tmp_path: Path, capsys) -> None:
    words = [name, *REQUIRED[name].split()]
    text = shown(" ".join([*words, "--print-config"]), capsys)
    (tmp_path / "c.yaml").write_text(text)
    assert parse([name, "--config", str(tmp_path / "c.yaml")]) == parse(words)
    assert config_text(name, parse(words)) == text
    assert flags_of(COMMANDS[name]).keys() >= yaml.safe_load(text).keys()


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        "data: photos\nshots: 16\ncheckpoint-minutes: null\nout: runs/x\ntemplates: 'a {}.'\nprogress: false\n"
    )
    command = parse(["train", "--config", str(file), "--shots", "4", "--progress"])
    assert (command.source.data, command.shots, command.run.progress) == ("photos", 4, True)
    assert (command.run.checkpoint_minutes, command.run.out) == (None, Path("runs/x"))
    assert command.source.templates == ("a {}.",)
    assert parse(["train", f"--config={file}"]).shots == 16
    assert parse(["data", "sample", "--config", str(_file(tmp_path, "data: d\nshots: 3\n"))]).shots == 3


def _file(folder: Path, text: str, name: str = "file.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no tomllib")
def test_toml(tmp_path: Path) -> None:
    file = _file(tmp_path, 'data = "photos"\nshots = 16\ntemplates = ["a {}.", "the {}."]\n', "c.toml")
    assert parse(["train", "--config", str(file)]).source.templates == ("a {}.", "the {}.")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("shotz: 4", "there is no option 'shotz' here. Did you mean 'shots'?"),
        ("shots: four", "shots: expected `int | null`, got `str`."),
        ("subset: bass", "subset: invalid enum value 'bass'."),
        ("out: 3", "out: expected a path, got 3."),
        ("[1, 2]", "must hold option: value pairs, not list."),
        ("a: [", "while parsing"),
        ("shots: 4", "Missing from"),
    ],
)
def test_a_config_that_cannot_be_used(text: str, line: str, tmp_path: Path, capsys) -> None:
    assert main(["train", "--config", str(_file(tmp_path, text))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error or "data" in error
    assert error.count("\n") == 1


def test_a_config_that_is_not_there(capsys) -> None:
    assert main(["train", "--config", "nowhere.yaml"]) == 2
    assert "--config nowhere.yaml cannot be read: No such file" in capsys.readouterr().err
    assert main(["train", "--config"]) == 2
    assert "--config needs a file" in capsys.readouterr().err


def test_a_run_can_be_repeated_from_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(16):
        folder = tmp_path / "photos" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / f"{i}.png")
    write_tiny("clip", tmp_path / "model")
    words = f"train --data {tmp_path}/photos --model {tmp_path}/model --method lora[steps=2] --out {tmp_path}/one"
    assert main([*words.split(), "--no-progress", "--device", "cpu"]) == 0
    assert main(["train", "--config", f"{tmp_path}/one/config.yaml", "--out", f"{tmp_path}/two"]) == 0
    one, two = ((tmp_path / run / "trained.safetensors").read_bytes() for run in ("one", "two"))
    assert one == two
    assert dataclasses.replace(parse(["train", "--config", f"{tmp_path}/two/config.yaml"])).run.out == tmp_path / "two"
    foreign = tmp_path / "three" / "config.yaml"
    foreign.parent.mkdir()
    foreign.write_text("database: mine")
    assert main(["train", "--config", f"{tmp_path}/one/config.yaml", "--out", f"{tmp_path}/three"]) == 2
    assert foreign.read_text() == "database: mine"
