"""`docs/run.py`: what it reads in a page, what it takes for the same, and what it does not let pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import run

PAGE = """# A page

<!-- first: steadyclip methods full -->

```console
$ steadyclip methods lora
a line
...
```

A sentence with `steadyclip runs list`.

<!-- not run: it needs a GPU -->
```sh
steadyclip train --data photos \\
    --method lora    # a remark
```

```python title="mine.py"
x = 1
```
"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return tmp_path / "page.md"


def test_a_page_is_read(page: Path) -> None:
    shown, left, python = run.blocks(page)
    assert (shown.line, shown.language, shown.first) == (6, "console", ("steadyclip methods full",))
    assert [(c.line, c.output) for c in shown.commands] == [("steadyclip methods lora", ["a line", "..."])]
    assert (left.reason, left.first, python.reason) == ("it needs a GPU", (), "")
    assert left.commands[0].words == ["steadyclip", "train", "--data", "photos", "--method", "lora"]
    assert (python.title, python.text, python.commands) == ("mine.py", "x = 1\n", [])
    assert list(run.spoken(page)) == [(11, "steadyclip runs list")]


@pytest.mark.parametrize(
    ("said", "printed", "equal"),
    [
        (["top1 71.7 % (+16.7)", "done"], ["top1   70.0 % (\u22120.3)", "done"], True),
        (["a 1", "...", "z"], ["a 2", "b", "c", "z"], True),
        (["...", "z"], ["z"], True),
        (["a", "..."], ["b", "a"], False),
        (["better."], ["worse."], False),
        (["a"], ["a", "b"], False),
        (["\u2502 full \u2502 1.0 \u2502"], ["\u2502 full   \u2502 22.0 \u2502"], True),
        ([], ["a"], False),
    ],
)
def test_what_counts_as_the_same(said: list[str], printed: list[str], equal: bool) -> None:
    assert run.same(said, printed) is equal


def test_what_was_printed_is_written(page: Path) -> None:
    text = PAGE.replace("a line\n...\n", "old\n")
    page.write_text(text)
    assert run.written(page, {(6, 0): ["new", "lines"]}) == text.replace("old\n", "new\nlines\n")
    page.write_text(PAGE)
    assert run.written(page, {(6, 0): ["new"]}) == PAGE  # somebody chose what to leave out


def test_a_page_runs(page: Path) -> None:
    runner = run.Runner(strict=True)
    runner.run(page)
    assert Path("mine.py").read_text() == "x = 1\n"
    (difference,) = runner.differences
    assert "a line" in difference
    assert "LoRA" in difference or "lora" in difference


@pytest.mark.parametrize(
    ("block", "wrong"),
    [
        ("```sh\nsteadyclip methods nothing\n```", "ended with exit code 2: error: unknown method 'nothing'"),
        ("```console\n$ steadyclip methods lora\nerror: it fails\n```", "ended with exit code 0"),
        ("```python\n1 / 0\n```", "ZeroDivisionError"),
        ("```sh\nrm -r runs\n```", "only steadyclip is run here, not rm"),
    ],
)
def test_what_does_not_do_what_it_says(page: Path, block: str, wrong: str) -> None:
    page.write_text(block)
    with pytest.raises(run.Failed, match=wrong):
        run.Runner().run(page)


def test_words_of_a_notebook(page: Path) -> None:
    """Only whole words become variables."""
    page.write_text(
        '<!-- notebook: DATA=food -->\n\n```sh\nsteadyclip tune food --out runs/food "food/*.png" x.food\n```\n'
    )
    assert '!steadyclip tune {DATA} --out runs/food \\"{DATA}/*.png\\" x.food' in run.notebook(page)
