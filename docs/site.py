"""What mkdocs does beside its settings: pages from outside of docs/, and the links between them.

The pages are written to be read in the repository. On the site README is the first page, and whatever else a page links
to (a script, a license) is copied beside it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "recipes/README.md": "recipes.md",
}
"""Path in the repository -> path on the site."""
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages from outside, and the files that any page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for file in list(files.documentation_pages()):
        text = Path(file.abs_src_path).read_text(encoding="utf-8")
        for link in _LINK.findall(text):
            found = _in_repository(file.abs_src_path, link[1])
            place = found and _place(found)
            if place and files.get_file_from_path(place) is None and (ROOT / found).is_file():
                files.append(File.generated(config, place, abs_src_path=str(ROOT / found)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as the site has them."""

    def on_site(link: re.Match[str]) -> str:
        target, _, heading = link[2].partition("#")
        found = _in_repository(page.file.abs_src_path, target)
        place = found and _place(found)
        if not place:
            return link[0]
        relative = os.path.relpath(place, os.path.dirname(page.file.src_uri) or ".")
        return f"{link[1]}{Path(relative).as_posix()}{'#' + heading if heading else ''}{link[3]}"

    return _LINK.sub(on_site, markdown)


def _in_repository(page: str, target: str) -> str:
    """The path in the repository that a link of a page leads to; "" for an address, or a heading of the page itself."""
    target = target.partition("#")[0]
    if not target or "://" in target or target.startswith("mailto:"):
        return ""
    found = (Path(page).parent / target).resolve()
    return found.relative_to(ROOT).as_posix() if found.is_relative_to(ROOT) and found.exists() else ""


def _place(found: str) -> str:
    """Where a file of the repository is on the site. Folders are shown by the page that stands for them."""
    if found in PAGES:
        return PAGES[found]
    if (ROOT / found).is_dir():
        return f"{found.removeprefix('docs/')}.md" if (ROOT / f"{found}.md").is_file() else f"files/{found}"
    if found.startswith("docs/") and found.endswith(".md"):
        return found.removeprefix("docs/")
    if found.startswith("docs/") and not found.endswith(".py"):
        return found.removeprefix("docs/")
    name = f"{found}.txt" if found.endswith(".md") else found  # a page of another part: shown as it is
    return f"files/{name}"
