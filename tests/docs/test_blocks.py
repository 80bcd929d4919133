"""Every block of README and docs: the commands can be parsed, the Python compiled and its names imported, and what is
not marked runs, page by page, in a small world (``world``). `docs/run.py` says how pages are written."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from steadyclip.cli import check_options, parse
from steadyclip.commands.options import one_row
from steadyclip.core.errors import UsageError
from steadyclip.data import load_data
from steadyclip.experiments.rows import parse_rows

from .pages import NAMES, PAGES, ROOT, run
from .world import lab, model, own, world  # noqa: F401

BLOCKS = [pytest.param(block, id=block.place) for page in PAGES for block in run.blocks(page)]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_can_be_read(block: Any) -> None:
    assert block.language in ("sh", "console", "python", *run.SHOWN), (
        f"{block.place}: name the language behind the fence"
    )
    if block.language == "toml":
        pytest.importorskip("tomllib").loads(block.text)
    for command in block.commands:
        wrong = _wrong(command.words, block.place)
        assert not wrong or wrong.startswith("--config "), f"{block.place}: {wrong}"  # the file of a run to come
    if block.language == "python":
        _check_python(block)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_within_sentences_can_be_parsed(page: Path) -> None:
    for line, code in run.spoken(page):
        place = f"{page.name}:{line}: {code}"
        words = run.Command(code).words if code.startswith("steadyclip ") and "..." not in code else []
        if len(words) > 2 or any(word.startswith("-") for word in words):  # else a command is only named
            wrong = _wrong(words, place)
            # a sentence may leave out what a command needs, but not invent an option
            assert wrong.startswith(("Missing from ", "--config ")) or not wrong or words[1].isupper(), (
                f"{place}: {wrong}"
            )


@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if any(b.values[0].page == p for b in BLOCKS)],
    ids=lambda p: p.relative_to(ROOT).as_posix(),
)
def test_a_page_runs(page: Path, world: Path) -> None:  # noqa: F811
    run.Runner().run(page)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "docs/deploy.md", "docs/tutorial.md"])
def test_a_page_says_what_its_commands_print(name: str, own: Path) -> None:  # noqa: F811
    """With the real model and drawings, but for numbers."""
    if name == "docs/deploy.md":  # its images are two of the data set that it trains on, and a broken file
        images = load_data("lab-food").test_set()
        for index in (0, 21):
            images.read(index).save(own / "pics" / f"{index}.png")
    runner = run.Runner(strict=True)
    runner.run(ROOT / name)
    assert not runner.differences, "\n\n".join(runner.differences)


def _wrong(words: list[str], place: str) -> str:
    try:
        _check(words, place)
    except UsageError as error:
        return str(error)
    return ""


def _check(words: list[str], place: str) -> None:
    words = words[: words.index(">")] if ">" in words else words
    program, *rest = itertools.dropwhile(re.compile(r"[A-Z_]+=").match, words)
    if program == "steadyclip":
        if {"--help", "--help-all", "--version"} & {*rest}:
            return
        command = parse(rest)
        check_options(command)
        for flag in ("method", "methods"):
            if rows := getattr(command, flag, None):
                _check_rows(flag, rows)
    elif program == "torchrun":  # ... -m steadyclip COMMAND ...
        _check(rest[rest.index("steadyclip") :], place)
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert {*rest} <= {*targets}, f"{place}: no such target"
    elif program in ("pip", "python"):
        files = [word.partition("[")[0] for word in rest if word.startswith("./") or word.endswith((".txt", ".py"))]
        assert all((ROOT / file).exists() for file in files), f"{place}: {files}"
    elif "/" in program:
        assert (ROOT / program).is_file(), f"{place}: no such file"
    else:
        assert shutil.which(program) or program in ("curl", "docker", "npm"), f"{place}: what is {program}?"


def _check_rows(flag: str, rows: str | tuple[str, ...]) -> None:
    """The methods and their settings exist; files of one's own and lists of rows are met when the page runs."""
    if isinstance(rows, str):
        if ".py:" not in rows and not rows.isupper():  # M stands for any
            one_row(f"--{flag}", rows)
    else:
        parse_rows([row for row in rows if ".py:" not in row and not row.startswith("@")])


def _check_python(block: Any) -> None:
    """It compiles, and what it imports is there; a method shown without its class is read as one of a class."""
    text = f"class _:\n{block.text}" if block.text.startswith(" ") else block.text
    for node in ast.walk(ast.parse(text, block.place)):
        names = [alias.name for alias in getattr(node, "names", ())]
        if isinstance(node, ast.Import):
            for name in names:
                importlib.import_module(name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert all(hasattr(module, name) for name in names), f"{block.place}: {node.module} lacks one of {names}"
