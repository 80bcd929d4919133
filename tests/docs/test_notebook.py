"""The tutorial as a notebook: it is that of the page, and it runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from steadyclip.models.testing import write_tiny

from .pages import ROOT, run
from .world import folder

PAGE = ROOT / "docs" / "tutorial.md"


def test_it_is_made_from_the_page() -> None:
    made = PAGE.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert made == run.notebook(PAGE), "make it anew: python docs/run.py docs/tutorial.md --notebook"


def test_it_has_every_block_and_sentence_of_the_page() -> None:
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.reads(run.notebook(PAGE), as_version=4).cells
    nbformat.validate(nbformat.reads(run.notebook(PAGE), as_version=4))
    commands = [command for block in run.blocks(PAGE) for command in block.commands]
    shell = [cell for cell in cells if cell.source.startswith("!")]
    assert len(shell) == len(commands)
    words = " ".join(cell.source for cell in cells if cell.cell_type == "markdown").split()
    outside = run.blocks(PAGE)[0].text + "".join(PAGE.read_text().split("```")[::2])
    assert {word for word in outside.split() if word.isalpha()} <= {*words}


def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its first cell to its last, in a kernel of its own, with a small model."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (tmp_path / "tiny").mkdir()
    write_tiny("clip", tmp_path / "tiny")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    notebook: Any = nbformat.reads(run.notebook(PAGE), as_version=4)
    parameters, *_ = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    folder(tmp_path / "photos", 0)
    parameters.source = 'DATA, MODEL = "photos", "tiny"'
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    verdicts = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            printed = "".join(out.get("text", "") for out in cell.outputs)
            assert "error: " not in printed, f"{cell.source}\n{printed}"
            verdicts += re.search(r"^On your \d+ test images: ", printed, re.M) is not None
    assert verdicts == 4  # of two trainings, of the report, and in Python
