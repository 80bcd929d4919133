from __future__ import annotations

import os
from pathlib import Path

import pytest

from steadyclip.core.errors import SteadyClipError
from steadyclip.core.files import write_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    write_atomic(file, b"one")
    write_atomic(file, b"two")
    assert file.read_bytes() == b"two"
    assert [f.name for f in file.parent.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.json"
    write_atomic(file, b"one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SteadyClipError, match=r"a\.json: No space left"):
        write_atomic(file, b"two")
    assert file.read_bytes() == b"one"
    assert [f.name for f in tmp_path.iterdir()] == ["a.json"]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.json", b"x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o640
