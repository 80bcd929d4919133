"""`docs/run.py`, which is no module of the library, and the pages that it reads."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("docs_run", ROOT / "docs" / "run.py")
assert _spec
assert _spec.loader
run = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = run  # for its dataclasses
_spec.loader.exec_module(run)

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "lab/README.md", "recipes/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
