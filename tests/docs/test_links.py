"""Links between the pages of this repository lead somewhere: to a file that is there, and to a heading of it."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from .pages import PAGES, ROOT

PAGES = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "lab" / "src").rglob("*.md")),
]
OUTSIDE = ("http://", "https://", "mailto:")


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[tuple[int, str]]:
    """The line and target of every link and image."""
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if isinstance(target, str):
                yield (token.map[0] + 1 if token.map else 0), target


def headings(page: Path) -> set[str]:
    """What follows `#` in a link to a heading of a page, as GitHub and the site make it."""
    found, times = set(), Counter[str]()
    for token, inline in itertools.pairwise(tokens(page)):
        if token.type == "heading_open":
            words = "".join(child.content for child in inline.children or () if child.type in ("text", "code_inline"))
            slug = re.sub(r"[^\w\- ]", "", words.lower()).strip().replace(" ", "-")
            found.add(f"{slug}-{times[slug]}" if times[slug] else slug)
            times[slug] += 1
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for line, target in links(page):
        if target.startswith(OUTSIDE):
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}:{line}: {target} is not there"
        assert file.is_relative_to(ROOT), f"{page.name}:{line}: {target} is outside of the repository"
        if heading and file.suffix == ".md":
            assert heading in headings(file), f"{page.name}:{line}: {file.name} has no heading #{heading}"


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n\nsee [it](other.md#x) and ![a picture](c.png)\n\n# A b c\n")
    assert list(links(page)) == [(3, "other.md#x"), (3, "c.png")]
    assert headings(page) == {"a-b-c", "a-b-c-1"}
