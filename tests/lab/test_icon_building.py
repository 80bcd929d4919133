"""Building: the same bytes twice, cached, whole or not at all, with one clear line when something is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from steadyclip.core.errors import DataError
from steadyclip.data import load_data
from steadyclip.data.builtin import builtin_names
from steadyclip_lab.icons import build, building, contact_sheet
from steadyclip_lab.icons.tables import TABLES, read_table

SMALL = "icon-animals"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one small data set."""
    return build(tmp_path_factory.mktemp("cache"), progress=False, only=(SMALL,))


def test_two_builds_are_byte_identical(folder: Path, tmp_path: Path) -> None:
    code = f"from steadyclip_lab.icons import build; build({str(tmp_path)!r}, progress=False, only=({SMALL!r},))"
    environment = os.environ | {"PYTHONHASHSEED": "1", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert (tmp_path / f"{SMALL}.parquet").read_bytes() == (folder / f"{SMALL}.parquet").read_bytes()
    assert (tmp_path / "manifest.json").read_bytes() == (folder / "manifest.json").read_bytes()


def test_manifest_says_what_is_there(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"].keys() == {SMALL}
    about = manifest["files"][SMALL]
    assert 0 < about["labels"] <= len(read_table(SMALL))  # some have no drawing but those that train on icons
    assert about["images"] == sum(about["counts"].values())
    assert manifest["versions"]["phosphor"] == importlib.metadata.version("justmyresource-phosphor")


def test_built_files_are_kept_until_a_pack_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / f"{SMALL}.parquet"
    before, content = path.stat().st_ino, path.read_bytes()
    build(folder, progress=False, only=(SMALL,))
    assert path.stat().st_ino == before
    versions = building.pack_versions()
    monkeypatch.setattr(building, "pack_versions", lambda: versions | {"lucide": "another"})
    build(folder, progress=False, only=(SMALL,))
    assert path.stat().st_ino != before
    monkeypatch.undo()
    build(folder, progress=False, only=(SMALL,))
    assert path.read_bytes() == content


def test_a_broken_file_is_built_again(folder: Path) -> None:
    path = folder / f"{SMALL}.parquet"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    build(folder, progress=False, only=(SMALL,))
    assert path.read_bytes() == content


def test_a_stopped_build_leaves_what_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / f"{SMALL}.parquet"
    content, files, draw, left = path.read_bytes(), sorted(os.listdir(folder)), building.render, 50

    def stops(*args: object) -> bytes:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(building, "render", stops)
    monkeypatch.setattr(building, "FORMAT", -1)
    with pytest.raises(KeyboardInterrupt):
        build(folder, progress=False, only=(SMALL,))
    assert path.read_bytes() == content
    assert sorted(os.listdir(folder)) == files


@pytest.mark.parametrize("missing", ["justmyresource-phosphor", "resvg-py", "py-phosphor-icons"])
def test_a_missing_pack_is_one_clear_line(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without(name: str) -> str:
        if name == missing:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    with pytest.raises(DataError, match=rf"is not installed: pip install {missing}\.") as caught:
        build(tmp_path / "cache", progress=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def test_unwritable_folder_and_unknown_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="STEADYCLIP_CACHE"):
        build(tmp_path / "file", progress=False, only=(SMALL,))
    with pytest.raises(DataError, match=r"icon-animal'.*Did you mean 'icon-animals'"):
        build(tmp_path, progress=False, only=("icon-animal",))


def test_load_data_knows_the_built_in_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYCLIP_CACHE", str(folder))
    assert set(builtin_names()) >= TABLES.keys()
    data = load_data(SMALL)
    assert data.classes == tuple(one.name for one in read_table(SMALL))
    assert data.templates == ("an icon of a {}.",)
    test = data.test_set()
    image = test.read(0)
    assert (image.size, image.mode) == ((64, 64), "RGB")
    assert test.captions[0]
    assert data.domains == ("lines",)


def test_contact_sheet_shows_every_class(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEADYCLIP_CACHE", str(folder))
    with Image.open(contact_sheet(tmp_path / "sheet.png", SMALL, columns=6)) as sheet:
        width, height = sheet.size
        colors = len(sheet.getcolors(maxcolors=1 << 24))
    assert width > 2 * 6 * 64
    assert height > json.loads((folder / "manifest.json").read_text())["files"][SMALL]["labels"] / 2 * 64
    assert colors > 50
    with pytest.raises(DataError, match="cannot be written"):
        contact_sheet(tmp_path / "none" / "sheet.png", SMALL)
