"""The recipes: valid shell, and every `steadyclip` command in them is one that the program takes. Nothing is run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, get_args

import pytest

from steadyclip.cli import parse
from steadyclip.commands.bench import Bench
from steadyclip.commands.options import DataOptions
from steadyclip.data import catalog
from steadyclip.data.builtin import find_builtin
from steadyclip.data.suites import find_suite
from steadyclip.experiments.protocols import ProtocolName
from steadyclip.experiments.rows import parse_rows
from steadyclip.experiments.settings import settings_for

RECIPES = Path(__file__).parents[2] / "recipes"
SCRIPTS = sorted(path.relative_to(RECIPES).as_posix() for path in RECIPES.rglob("*.sh"))
PUBLISHED = [script for script in SCRIPTS if script.startswith("published/")]
TYPED = [s for s in SCRIPTS if re.search(r"^[^#\n]*\bsteadyclip [a-z]", (RECIPES / s).read_text(), re.MULTILINE)]


def commands(script: str, folder: Path) -> list[list[str]]:
    """The words of every `steadyclip` command of the recipe, as the shell hands them over; no program is run."""
    shutil.copytree(RECIPES, folder / "recipes")  # some recipes write beside themselves
    (folder / "lab" / "recipes").mkdir(parents=True)
    (folder / "lab" / "recipes" / "drawings.sh").write_text("")  # fetches a package
    programs, log = folder / "programs", folder / "log"
    programs.mkdir()
    for name in ("python", "steadyclip"):
        (programs / name).write_text(f'#!/bin/sh\n[ {name} = python ] || printf "%s\\036" "$@" "" >> {log}\n')
        (programs / name).chmod(0o755)
    arguments = ["DATA", *(["CC3M"] if " DATA CC3M" in (RECIPES / script).read_text() else [])]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["bash", folder / "recipes" / script, *arguments], env={**os.environ, "PATH": path}, cwd=folder, check=True
    )
    # each word ends in a separator, each command in an empty word
    return [line.split("\036") for line in log.read_text().split("\036\036") if line]


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_is_valid_shell(script: str) -> None:
    subprocess.run(["bash", "-n", RECIPES / script], check=True)
    assert os.access(RECIPES / script, os.X_OK)
    text = (RECIPES / script).read_text()
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("script", TYPED)
def test_its_commands_are_taken(script: str, tmp_path: Path) -> None:
    found = commands(script, tmp_path)
    assert found
    for words in found:
        command: Any = parse(words)
        if isinstance(command, Bench):
            check_bench(command)
            continue
        source = getattr(getattr(command, "action", command), "source", None)
        if isinstance(source, DataOptions):
            assert find_builtin(source.data) or (catalog.find(source.data) and source.root == Path("DATA"))


def check_bench(command: Bench) -> None:
    assert command.protocol in get_args(ProtocolName)
    rows = parse_rows(command.methods, settings_for(command.model, command.recipes))
    assert command.seeds
    names = (*command.data, *(command.targets or ()))
    assert [name for name in names if not (find_builtin(name) or find_suite(name) or catalog.find(name))] == []
    if any(map(catalog.find, names)):
        assert (command.model, command.root) == ("openai/clip-vit-base-patch16", Path("DATA"))
        assert {row.settings for row in rows if row.recipe} == {"published"}


@pytest.mark.parametrize("script", PUBLISHED)
def test_a_published_table_says_what_to_expect(script: str) -> None:
    text = (RECIPES / script).read_text()
    for part in ("Usage: recipes/" + script, "# Needs: ", "# Time: ESTIMATE, never run here: ", "# Expected"):
        assert part in text
    if re.search(r"\d\d\.\d", text.partition("# Expected")[2].partition("\nset ")[0]):
        assert "[S]" in text or "[D]" in text


def test_the_list_names_every_recipe() -> None:
    listed = re.findall(r"\]\(([\w/.-]+\.sh)\)", (RECIPES / "README.md").read_text())
    assert sorted(set(listed)) == SCRIPTS
