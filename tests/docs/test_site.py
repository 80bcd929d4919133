"""The documentation as a site: `make docs` ends without a warning, which it takes for an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import PAGES, ROOT


def test_it_is_built(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason='needs pip install "steadyclip[docs]"')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "site" / "api" / "index.html").read_text()
    assert all(
        f'id="steadyclip.{name}"' in reference for name in ("training.trainer.fit", "deploy.predictor.Predictor")
    )
    assert (tmp_path / "site" / "files" / "recipes" / "laboratory.sh").is_file()  # a page links to it
    assert "steadyclip bench base-to-new" in (tmp_path / "site" / "index.html").read_text()


def test_every_page_is_in_its_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES:
        if page.is_relative_to(ROOT / "docs"):
            assert f": {page.relative_to(ROOT / 'docs').as_posix()}\n" in menu, page.name
