"""Every example runs to its end, in a process of its own and on fewer data than its default."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = {
    "arf.py": ["--shots", "1", "--steps", "2", "--pool", "80", "--test-images", "40"],
    "dra.py": ["--shots", "1", "--steps", "2", "--test-images", "40"],
    "dra_picture.py": ["--shots", "1", "--steps", "2", "--out", "dra.png"],
    "orthcr.py": ["--shots", "1", "--steps", "2", "--test-images", "40"],
    "orthcr_picture.py": ["--shots", "1", "--steps", "2", "--out", "orthcr.png"],
}
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_what_it_imports_is_there(name: str) -> None:
    assert callable(runpy.run_path(str(EXAMPLES / name), run_name="example")["main"])


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *QUICK.get(name, [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Traceback" not in done.stderr
