"""What a table or a split file names, and whether it is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steadyclip import load_data
from steadyclip.core.errors import DataError
from steadyclip.data.listing import Entry, missing_files


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    entries = [Entry(key, "cat", None, "split.json") for key in ("a.png", "b.png", "a" * 5000, "a\0.png")]
    assert missing_files(tmp_path, entries) == entries[1:]


def test_a_split_file_may_name_what_no_file_can_be_called(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"")
    rows = [["cat/0.png", 0, "cat"], ["a" * 300 + ".png", 1, "dog"]]
    (tmp_path / "split_zhou_Own.json").write_text(json.dumps({"train": rows, "val": [], "test": rows[:1]}))
    with pytest.raises(DataError, match="aaaa"):
        load_data(tmp_path / "split_zhou_Own.json").task(shots=None)
