"""What a table or a split file names, and whether it is there."""

from __future__ import annotations

from pathlib import Path

from steadyclip.data.listing import Entry, missing_files


def test_a_name_that_no_file_can_have_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    entries = [Entry(key, "cat", None, "split.json") for key in ("a.png", "b.png", "a" * 5000, "a\0.png")]
    assert missing_files(tmp_path, entries) == entries[1:]
