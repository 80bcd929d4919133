"""Entry points: found without an import, loaded by name, and never a crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steadyclip.core import extensions as module
from steadyclip.core.extensions import absent, extensions, load_extension

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install("some-dist", "group", name="module:thing")`` installs a distribution with these entry points."""

    def clear() -> None:
        for cached in (extensions, load_extension, module.warn):
            cached.cache_clear()

    def make(distribution: str, group: str, **points: str) -> None:
        about = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        clear()

    monkeypatch.syspath_prepend(tmp_path)
    clear()
    yield make
    clear()


def test_one_is_loaded_when_it_is_asked_for(install: Install) -> None:
    install("good-dist", "test.group", colors="colorsys:rgb_to_hsv", nothing="no_such_module_at_all:x")
    assert extensions("test.group").keys() == {"colors", "nothing"}  # nothing was imported
    import colorsys

    assert load_extension("test.group", "colors") is colorsys.rgb_to_hsv
    assert load_extension("test.group", "sounds") is None
    assert extensions("test.other") == {}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("no_such_module_at_all:x", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("colorsys:no_such_name", "AttributeError: module 'colorsys' has no attribute 'no_such_name'"),
        ("loud_module:x", "RuntimeError: first line"),
        ("quiet_module:x", "KeyError: 'x'"),
        ("colorsys:ONE_THIRD", "colorsys:ONE_THIRD is float, not type"),
    ],
)
def test_a_broken_one_is_one_line_that_names_its_distribution(
    value: str, why: str, install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loud_module.py").write_text("raise RuntimeError('first line\\nsecond line')")
    (tmp_path / "quiet_module.py").write_text("{}['x']")
    install("bad-dist", "test.group", bad=value)
    for _ in range(2):
        assert load_extension("test.group", "bad", type) is None
    assert capsys.readouterr().err == (f"warning: bad-dist is broken, and its 'bad' (test.group) is left out: {why}.\n")
    assert (
        absent("test.group", "bad") == "it comes with bad-dist, which is broken: pip install --force-reinstall bad-dist"
    )


def test_a_name_of_two_distributions(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("b-dist", "colorsys:ONE_SIXTH"), ("a-dist", "colorsys:ONE_THIRD"), ("c-dist", "colorsys:x")):
        install(name, "test.group", shared=value)
    assert load_extension("test.group", "shared") == pytest.approx(1 / 3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("warning: a-dist and ") and "'shared' (test.group)" in line for line in lines)


def test_nothing_is_read_before_it_is_needed() -> None:
    code = (
        "import sys, steadyclip, steadyclip.cli\n"
        "assert 'steadyclip_lab' not in sys.modules\n"
        "from steadyclip.core.extensions import extensions\n"
        "assert extensions.cache_info().misses == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_command_of_another_distribution(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from steadyclip.cli import main

    (tmp_path / "more_commands.py").write_text(
        "import dataclasses\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Greet:\n"
        "    '''Say hello.'''\n"
        "    name: str = 'you'\n"
        "    def __call__(self): print('hello', self.name)\n"
    )
    names = {"greet": "more_commands:Greet", "data.greet": "more_commands:Greet", "gone": "more_commands:Gone"}
    install("more-dist", "steadyclip.commands", **names)
    assert main(["greet", "--name", "world"]) == 0
    assert main(["data", "greet", "--name", "data"]) == 0
    assert capsys.readouterr().out == "hello world\nhello data\n"
    assert main(["data", "list", "--json"]) == 0
    capsys.readouterr()
    assert main([]) == 0
    shown = capsys.readouterr()
    assert re.search(r"^  greet +Say hello\.$", shown.out, re.MULTILINE)
    assert "gone" not in shown.out
    assert shown.err.startswith("warning: more-dist is broken, and its 'gone' ")
    assert main(["greet", "--nam", "x"]) == 2
    assert main(["gone"]) == 2
    assert "error: no command 'gone' here: it comes with more-dist, which is broken" in capsys.readouterr().err
    assert main(["gree"]) == 2
    assert "Did you mean 'greet'?" in capsys.readouterr().err


def test_a_method_of_another_distribution(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steadyclip.cli import main
    from steadyclip.experiments.rows import parse_row
    from steadyclip.methods import registry

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    (tmp_path / "more_methods.py").write_text(
        "from steadyclip.adapters import LowRank\nfrom steadyclip.methods import Method, Recipe\n"
        "class Theirs(Method):\n    name = 'theirs'\n    adapters = (LowRank(),)\n    recipe = Recipe(epochs=1)\n"
    )
    install("more-dist", "steadyclip.methods", theirs="more_methods:Theirs", gone="more_methods:Gone")
    assert parse_row("theirs[rank=3,epochs=2]").method.knobs()["rank"] == 3
    assert main(["methods"]) == 0
    shown = capsys.readouterr()
    assert "the package more-dist" in shown.out
    assert shown.err.startswith("warning: more-dist is broken, and its 'gone' (steadyclip.methods) is left out")
    assert shown.err.count("\n") == 1
    assert main(["methods", "theirs"]) == 0
    assert "comes with the package more-dist" in capsys.readouterr().out
    assert main(["train", "--data", "x", "--method", "gone[rank=3]"]) == 2
    assert "error: row 'gone[rank=3]': no method 'gone' here: it comes with more-dist" in capsys.readouterr().err
