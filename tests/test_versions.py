"""What pyproject.toml promises is what the two lists of versions test."""

import re
import sys
from pathlib import Path

import pytest

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


def test_drawings_are_made_by_the_same_renderer_in_both() -> None:
    tested, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    assert tested["resvg-py"] == oldest["resvg-py"]
