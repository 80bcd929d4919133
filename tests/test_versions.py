"""What pyproject.toml promises is what the two lists of versions test."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split(";")[0].strip().split("==") for line in lines)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 has no tomllib")
def test_the_oldest_pins_are_the_lower_bounds() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = pins("constraints-oldest.txt")
    for requirement in project["dependencies"]:
        package, bound = requirement.split(">=")
        padded = f"{bound}.0" if bound.count(".") == 1 else f"{bound}.0.0" if bound.count(".") == 0 else bound
        assert oldest.get(package) == padded, f"constraints-oldest.txt has {oldest.get(package)} of {requirement}"


def test_every_requirement_has_a_tested_version() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    missing = set(re.findall(r'"([\w-]+)>=', block[1])) - set(pins("constraints.txt"))
    assert not missing, f"not in constraints.txt: {sorted(missing)}"


@pytest.mark.newest
@pytest.mark.skipif(sys.version_info < (3, 11), reason="pins are for Python 3.11 and newer")
def test_everything_that_ci_installs_is_pinned() -> None:
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    lock = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lock)
    pinned = {canonicalize_name(name) for name in pins("constraints.txt")}
    assert "typing-extensions" in lock.needed()  # of the packages that others need
    missing = lock.needed().keys() - pinned
    assert not missing, f"not in constraints.txt: {sorted(missing)}; `make lock` writes them"


def test_drawings_are_made_by_the_same_renderer_in_both() -> None:
    tested, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    assert tested["resvg-py"] == oldest["resvg-py"]
