"""Run the blocks of a page of the docs, and compare what they print with what the page says they print.

    python docs/run.py docs/tutorial.md --in /tmp/tutorial           # says where they differ
    python docs/run.py docs/tutorial.md --in /tmp/tutorial --write   # puts what was printed into the page
    python docs/run.py docs/tutorial.md --notebook                   # makes its notebook anew; runs nothing

How a page is written:

- ```` ```sh ```` holds commands, ```` ```console ```` commands behind `$ ` with what they print below them (a line
  `...` stands for any number of lines), ```` ```python ```` Python. The blocks of a page run from top to bottom in one
  folder, and all Python in one module. A block with `title="mine.py"` is written to that file, too.
- ```` ```text ```` and ```` ```toml ```` are only shown.
- `<!-- not run: REASON -->` before a block leaves it out; tests still parse it. `<!-- first: COMMAND -->` is a command
  that the page needs and does not show.
- `<!-- notebook: DATA=food MODEL=icons-small -->` makes a page a notebook, too, which begins with the variables DATA
  and MODEL in the place of these words.

Numbers vary with the machine: only the text between them is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import shlex
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
SHOWN = ("text", "toml")
"""Languages of blocks that are never run."""
_MARK = re.compile(r"<!--\s*(not run|first):\s*(.+?)\s*-->", re.S)
_NOTEBOOK = re.compile(r"<!--\s*notebook:\s*(.+?)\s*-->\n*")
_NUMBER = re.compile(r"[+\-\u2212±]?\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?")


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file it stands in.
        line: of its first line of text, counted from 1.
        language: the first word behind the fence; "" if there is none.
        title: the file that it is written to, or "".
        text: what is in it.
        reason: why it is not run, or "".
        first: commands that the page needs before it.
    """

    page: Path
    line: int
    language: str
    title: str
    text: str
    reason: str = ""
    first: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """``docs/rows.md:4``."""
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"

    @property
    def commands(self) -> list[Command]:
        """The commands of a block of ``sh`` or ``console``; none of another."""
        if self.language not in ("sh", "console"):
            return []
        found: list[Command] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            if self.language == "console" and not line.startswith("$ "):
                if not found:
                    raise ValueError(f"{self.place}: a block of `console` begins with `$ `")
                found[-1].output.append(line)
                continue
            line = line.removeprefix("$ ")
            while line.endswith("\\"):
                line = line[:-1] + next(lines).strip()
            if line.strip():
                found.append(Command(line))
        for command in found:
            while command.output and not command.output[-1].strip():
                del command.output[-1]
        return found


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line, and what the page says it prints."""

    line: str
    output: list[str] = dataclasses.field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """As a shell would split it; comments are no part of it."""
        return shlex.split(self.line, comments=True)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found: list[Block] = []
    reason, first = "", []
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        if token.type == "html_block":
            for kind, text in _MARK.findall(token.content):
                if kind == "first":
                    first.append(text)
                else:
                    reason = text
        elif token.type == "fence":
            assert token.map
            language, _, more = token.info.partition(" ")
            title = re.search(r'title="([^"]+)"', more)
            found.append(
                Block(
                    page, token.map[0] + 2, language, title.group(1) if title else "", token.content, reason,
                    tuple(first),
                )
            )  # fmt: skip
            reason, first = "", []
        elif token.type != "html_block" and token.type.endswith("_open"):
            reason = ""
    return found


def spoken(page: Path) -> Iterator[tuple[int, str]]:
    """The line and text of every `code` within the sentences and tables of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            if child.type == "code_inline":
                yield (token.map[0] + 1 if token.map else 0), child.content


# ---- running


class Failed(Exception):
    """A block did not do what the page says."""


@dataclasses.dataclass
class Runner:
    """Runs blocks in the current folder.

    Attributes:
        strict: also compare what is printed.
        say: is told each command.
        printed: by block and command, what came out.
    """

    strict: bool = False
    say: Callable[[str], None] = lambda line: None
    printed: dict[tuple[int, int], list[str]] = dataclasses.field(default_factory=dict)
    differences: list[str] = dataclasses.field(default_factory=list)

    def run(self, page: Path) -> None:
        """Every block that is not marked.

        Raises:
            Failed: a command ends with an exit code that the page does not show, or Python raises.
        """
        module = types.ModuleType(f"page_{page.stem.replace('-', '_')}")
        sys.modules[module.__name__] = module
        try:
            for block in blocks(page):
                for line in block.first:
                    self.command(Command(line), block)
                if not block.reason:
                    self._block(block, module)
        finally:
            del sys.modules[module.__name__]

    def _block(self, block: Block, module: types.ModuleType) -> None:
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.language == "python":
            self.say(f"{block.place}: python")
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(block.text, block.place, "exec"), module.__dict__)
            except Exception as error:
                raise Failed(f"{block.place}: {type(error).__name__}: {error}") from error
        for number, command in enumerate(block.commands):
            shown = self.command(command, block)
            self.printed[block.line, number] = shown
            if self.strict and block.language == "console" and not same(command.output, shown):
                self.differences.append(
                    f"{block.place}: {command.line}\n--- the page\n" + "\n".join(command.output)
                    + "\n--- printed\n" + "\n".join(shown)
                )  # fmt: skip

    def command(self, command: Command, block: Block) -> list[str]:
        """Run one command of ours, in this process; returns the lines of standard output, and its error."""
        from steadyclip.cli import main

        self.say(f"{block.place}: {command.line}")
        program, *words = command.words
        if program != "steadyclip":
            raise Failed(f"{block.place}: only steadyclip is run here, not {program}: mark the block with `not run`")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = main(words)
            except SystemExit as end:  # --help
                code = int(end.code or 0)
        wrong = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
        expected = any(line.startswith("error: ") for line in command.output)
        if bool(code) != expected:
            raise Failed(f"{block.place}: {command.line}\nended with exit code {code}: {' '.join(wrong)}")
        return [line.rstrip() for line in out.getvalue().splitlines()] + wrong


def same(page: list[str], printed: list[str]) -> bool:
    """Whether a page says what was printed, but for numbers, spaces, line breaks and what `...` stands for."""
    pattern = r"\s*".join(
        r"(?:.*\n)*?" if line.strip() == "..." else r"\s+".join(map(re.escape, _plain(line).split())) for line in page
    )
    return re.fullmatch(rf"\s*{pattern}\s*", "\n".join(map(_plain, printed)) + "\n") is not None


def _plain(line: str) -> str:
    """Without what varies: numbers, and the width of columns."""
    line = re.sub(r"[\u2500-\u257f]+", "|", line)
    return " ".join(_NUMBER.sub("#", line).split())


def written(page: Path, printed: dict[tuple[int, int], list[str]]) -> str:
    """The text of the page with what was printed below its commands; blocks with `...` stay as they are."""
    lines = page.read_text(encoding="utf-8").splitlines()
    for block in reversed(blocks(page)):
        if (
            block.language != "console"
            or block.reason
            or any(line.strip() == "..." for line in block.text.splitlines())
        ):
            continue
        body: list[str] = []
        for number, command in enumerate(block.commands):
            body += [*([""] if body else []), f"$ {command.line}", *printed[block.line, number]]
        lines[block.line - 1 : block.line - 1 + len(block.text.splitlines())] = body
    return "\n".join(lines) + "\n"


# ---- the page as a notebook


def notebook(page: Path) -> str:
    """The page as a Jupyter notebook, with the outputs that the page has; its first code cell sets the variables that
    its mark names, and is tagged `parameters`, as papermill has it."""
    text = page.read_text(encoding="utf-8")
    mark = _NOTEBOOK.search(text)
    if mark is None:
        raise ValueError(f"{page}: no mark `notebook`")
    names = dict(pair.split("=", 1) for pair in mark[1].split())
    lines = text.splitlines(keepends=True)
    cells: list[dict[str, Any]] = []
    done = 0
    for block in [*blocks(page), None]:
        start = block.line - 2 if block else len(lines)
        before, found, after = "".join(lines[done:start]).partition(mark[0])
        cells += _words(before)
        if found:
            values = "\n".join(f"{name} = {json.dumps(value)}" for name, value in names.items())
            cells += [_code(values, tags=["parameters"]), *_words(after)]
        if block is None:
            break
        done = start + len(block.text.splitlines()) + 2
        if block.reason or block.language in SHOWN:
            cells += _words("".join(lines[start:done]))
        elif block.language == "python":
            for name, value in names.items():
                text = block.text.replace(json.dumps(value), name)
                block = dataclasses.replace(block, text=text)
            cells.append(_code(block.text.rstrip()))
        else:
            for command in block.commands:
                line = command.line
                for name, value in names.items():
                    line = re.sub(rf"(?<![\w/.-]){re.escape(value)}(?=[/ \"]|$)", f"{{{name}}}", line)
                cells.append(_code(f"!{line}", "\n".join(command.output)))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def _words(text: str) -> list[dict[str, Any]]:
    text = text.strip()
    return [{"cell_type": "markdown", "metadata": {}, "source": text}] if text else []


def _code(source: str, printed: str = "", tags: list[str] | None = None) -> dict[str, Any]:
    outputs = [{"output_type": "stream", "name": "stdout", "text": f"{printed}\n"}] if printed else []
    metadata = {"tags": tags} if tags else {}
    return {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": outputs, "source": source}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--in", dest="folder", type=Path, help="folder to run in; made if need be")
    parser.add_argument("--notebook", action="store_true", help="write the notebook of the page, and run nothing")
    parser.add_argument("--write", action="store_true", help="put what is printed into the page")
    given = parser.parse_args()
    page = given.page.resolve()
    if given.notebook:
        page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")
        return 0
    if given.folder is None:
        parser.error("--in names the folder to run in")
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    runner = Runner(strict=True, say=lambda line: print(line, file=sys.__stderr__, flush=True))
    runner.run(page)
    if given.write:
        page.write_text(written(page, runner.printed), encoding="utf-8")
        if _NOTEBOOK.search(page.read_text(encoding="utf-8")):
            page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")
        return 0
    print("\n\n".join(runner.differences) or f"{page.name}: what its commands print is what it says")
    return bool(runner.differences)


if __name__ == "__main__":
    sys.exit(main())
