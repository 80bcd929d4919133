from __future__ import annotations

import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

import steadyclip
from steadyclip.core import provenance


@pytest.fixture(autouse=True)
def forget():
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


def test_versions() -> None:
    found = provenance.versions()
    assert found["torch"] == metadata.version("torch")
    assert found["steadyclip"] == steadyclip.__version__


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


def test_commit_of_a_checkout_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "steadyclip"
    package.mkdir(parents=True)
    source = package / "__init__.py"
    source.touch()
    monkeypatch.setattr(steadyclip, "__file__", str(source))
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "commit", "-q", "--allow-empty", "-m", "someone else's project")
    assert provenance.commit() is None  # installed below another project's checkout

    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "ours")
    provenance.commit.cache_clear()
    commit = provenance.commit()
    assert commit is not None
    assert re.fullmatch("[0-9a-f]{40}", commit)

    source.write_text("changed = True")
    provenance.commit.cache_clear()
    assert provenance.commit() == f"{commit}-dirty"
