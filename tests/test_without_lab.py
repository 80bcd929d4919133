"""The core by itself: in an environment without steadyclip-lab it does its job, and says what the lab has."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from PIL import Image

import steadyclip
from steadyclip.core import extensions
from steadyclip.models.testing import write_tiny

SOURCE = Path(steadyclip.__file__).parent
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs Python where everything is installed that is installed here, and the core, but no lab.

    The installed packages are linked into one folder; `-S` leaves out the real folders, and with them what editable
    installations put on the path.
    """
    site = tmp_path_factory.mktemp("site-packages")
    for folder in map(Path, sys.path):
        for path in folder.iterdir() if folder.name in ("site-packages", "dist-packages") else ():
            if not path.name.startswith("steadyclip") and not (site / path.name).exists():
                (site / path.name).symlink_to(path)
    (site / "steadyclip").symlink_to(SOURCE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONPATH"] = str(site)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", *words], env=environment, cwd=site.parent, capture_output=True, text=True
        )

    return run


def test_the_environment_lacks_the_lab(python: Run) -> None:
    code = (
        "import importlib.util, importlib.metadata\n"
        "print(importlib.util.find_spec('steadyclip_lab'), importlib.util.find_spec('torch') is not None)\n"
        "print([group for group in importlib.metadata.entry_points().groups if group.startswith('steadyclip')])\n"
    )
    assert python("-c", code).stdout == "None True\n[]\n"


def test_own_images_with_a_model_of_ones_own(python: Run, tmp_path: Path) -> None:
    """Train, evaluate, predict, report; and the same in Python."""
    for label, color in enumerate(("red", "green", "blue", "gray")):
        (tmp_path / "photos" / color).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (32, 32), (label * 60, i * 20, 90)).save(tmp_path / "photos" / color / f"{i}.png")
    (tmp_path / "model").mkdir()
    write_tiny("clip", tmp_path / "model")
    photos, model, run = (str(tmp_path / name) for name in ("photos", "model", "run"))
    code = f"""
import steadyclip as sc
from steadyclip.cli import main
words = ["train", "--data", {photos!r}, "--model", {model!r}, "--shots", "2", "--out", {run!r}]
assert main([*words, "--method", "lora[steps=2]", "--no-progress"]) == 0
assert main(["evaluate", {run!r}, "--data", {photos!r}]) == 0
assert main(["predict", {run!r}, {photos + "/red/0.png"!r}]) == 0
assert main(["report", {run!r}, "--out", {run + "/page.html"!r}]) == 0
data = sc.load_data({photos!r})
record = sc.evaluate(sc.load({model!r}), sc.get_method("zero-shot"), data.test_set())
assert record.metrics is not None
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("train --data icons --model {model} --shots 1", 1, "no data 'icons' here"),
        ("data check --data lab-food", 1, "no data 'lab-food' here"),
        ("train --data {photos} --model icons-small --shots 1", 1, "no model 'icons-small' here"),
        ("bench base-to-new", 1, "no model 'icons-small' here"),
        ("bench base-to-new --model {model} --methods zero-shot --seeds 1 --out out", 1, "no data 'lab-things' here"),
        ("bench few-shot --data suite --model {model} --out out", 1, "no data 'suite' here"),
        ("demo", 2, "demo needs 'lab-things'"),
        ("pretrain --data pairs.parquet --out out", 2, "no command 'pretrain' here"),
        ("data build icons", 2, "no command 'data build' here"),
        ("anchors embed lab-pool --out pool --model {model}", 1, "no pairs 'lab-pool' here"),
    ],
)
def test_what_only_the_lab_has(words: str, code: int, line: str, python: Run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_tiny("clip", tmp_path / "model")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (8, 8), (i * 60, 0, 0)).save(tmp_path / "photos" / name / f"{i}.png")
    places = {"model": tmp_path / "model", "photos": tmp_path / "photos"}
    done = python("-m", "steadyclip", *words.format(**places).split())
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {line}: it comes with steadyclip-lab, which is not installed: ")
    assert "pip install ./lab in a checkout of steadyclip" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_lists_what_is_there(python: Run) -> None:
    done = python("-m", "steadyclip", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\n  train " in done.stdout
    assert "\n  pretrain " not in done.stdout


def test_the_core_never_imports_the_lab() -> None:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.startswith("steadyclip_lab")], path


def test_the_core_knows_what_the_lab_has() -> None:
    """The names for which a user is sent to the lab are those of its entry points."""
    pytest.importorskip("steadyclip_lab")
    points = metadata.distribution("steadyclip-lab").entry_points
    for group, names in extensions._LAB.items():
        assert {point.name for point in points if point.group == group} == set(names)
    assert {point.group for point in points} == extensions._LAB.keys()
