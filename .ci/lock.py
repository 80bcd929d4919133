"""``make lock``: constraints.txt pins all that CI installs, at the versions in this environment.

The first part of the file names what the project itself asks for, with comments; what that needs in turn comes below
the line ``BELOW``, which is written anew.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import tomllib
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FILE = ROOT / "constraints.txt"
BELOW = "# what these need in turn, written by `make lock`"
OURS = {"steadyclip": ROOT / "pyproject.toml", "steadyclip-lab": ROOT / "lab" / "pyproject.toml"}
INSTALLED = ("steadyclip[dev]", "steadyclip-lab")
"""By `make setup`."""


def needed() -> dict[str, str]:
    """Name -> version of every distribution that is needed in this environment, ours left out.

    Raises:
        metadata.PackageNotFoundError: one is not installed.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in INSTALLED]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for each in ("", *requirement.extras):
            if (name, each) in seen:
                continue
            seen.add((name, each))
            if name in OURS:  # as it is now, not as it was when it was installed
                waiting += [(Requirement(text), each) for text in _of_ours(OURS[name], each)]
            else:
                distribution = metadata.distribution(name)
                found[name] = distribution.version.partition("+")[0]
                waiting += [(Requirement(text), each) for text in distribution.requires or ()]
    return dict(sorted(found.items()))


def _of_ours(file: Path, extra: str) -> list[str]:
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return project["optional-dependencies"][extra] if extra else project["dependencies"]


NEWER = '; python_version >= "3.11"'
"""On Python 3.10 older versions of some are needed, and with them older ones of what these need in turn."""


def locked(text: str, versions: dict[str, str]) -> str:
    """The file with these versions; what the first part pins and nobody needs here stays as it is."""
    head = text.partition(BELOW)[0].splitlines()
    own = {canonicalize_name(line.partition("==")[0]): line for line in head if line and not line.startswith("#")}
    for name, line in own.items():
        if name in versions:
            python = SpecifierSet(metadata.metadata(name).get("Requires-Python") or "")
            marker = NEWER if NEWER in line or not python.contains("3.10.99") else ""
            head[head.index(line)] = f"{line.partition('==')[0]}=={versions[name]}{marker}"
    rest = [f"{name}=={version}{NEWER}" for name, version in versions.items() if name not in own]
    return "\n".join([*head, BELOW, *rest]) + "\n"


def main() -> int:
    before = FILE.read_text(encoding="utf-8")
    after = locked(before, needed())
    FILE.write_text(after, encoding="utf-8")
    changed = sorted(set(after.splitlines()) ^ set(before.splitlines()))
    print("\n".join(changed) or f"{FILE.name} is as this environment")
    return 0


if __name__ == "__main__":
    sys.exit(main())
