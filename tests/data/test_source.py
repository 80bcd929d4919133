from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import load_data, source
from steadyclip.data.builtin import BuiltIn
from steadyclip.data.prompts import imagenet_80, resolve_templates


@pytest.fixture
def builtin(folder, picture, monkeypatch: pytest.MonkeyPatch):
    """A built-in data set "doodles", and its table."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    path = folder({}, "cache").parent / "doodles-v1.parquet"
    images = [picture(str(i)) for i in range(8)]
    parquet.write_table(pa.table({"image": images, "label": ["cat", "dog"] * 4}), path)
    known = {"doodles": BuiltIn(lambda: path)}
    monkeypatch.setattr(source, "find_builtin", lambda spec: known.get(spec))
    monkeypatch.setattr(source, "builtin_names", lambda: tuple(known))
    return path


def test_builtin_by_name(builtin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert load_data("doodles").name == "doodles"
    with pytest.raises(DataError, match=r"'doodle'\. Did you mean 'doodles'\? Built-in data: doodles\."):
        load_data("doodle")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        load_data(Path("doodles"))  # a Path is never a built-in name
    with pytest.raises(DataError, match="no folder"):
        load_data("./doodles")


def test_relative_folder_survives_chdir(folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = folder({"a": 4, "b": 4})
    monkeypatch.chdir(root.parent)
    data = load_data(root.name)
    monkeypatch.chdir("/")
    assert data.task().skipped == ()


@pytest.mark.parametrize("spec", ["", "  "])
def test_no_name_is_not_the_working_folder(spec: str):
    with pytest.raises(DataError, match="no folder, file or built-in data"):
        load_data(spec)


def test_folder_without_permission(folder, monkeypatch: pytest.MonkeyPatch):
    root = folder({"a": 4, "b": 4})

    def refuse(path: Path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match="pets may not be read"):
        load_data(root)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_share_must_be_a_share(share: float, tmp_path: Path):
    with pytest.raises(UsageError, match="between 0 and 1"):
        load_data(tmp_path, max_unreadable=share)


def test_templates():
    assert resolve_templates("OxfordPets") == ("a photo of a {}, a type of pet.",)
    assert resolve_templates("a {}") == ("a {}",)
    assert resolve_templates(["a {}", "the {}."]) == ("a {}", "the {}.")
    assert resolve_templates("imagenet-80") == imagenet_80()
    assert len(set(imagenet_80())) == 80
    assert {template.count("{}") for template in imagenet_80()} == {1}


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("imagenet80", "no template set is called that. Did you mean 'imagenet-80'"),
        (["a cat"], "exactly once"),
        ("{} and {}", "exactly once"),
        ("a {name}", "exactly once"),
        ([], "no templates were given"),
    ],
)
def test_wrong_templates(given, match: str):
    with pytest.raises(UsageError, match=match):
        resolve_templates(given)


def test_listing_needs_no_torch(folder):
    root = folder({"a": 4, "b": 4})
    code = "import sys; from steadyclip.data import load_data as load; load(sys.argv[1]).task(1); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True)
    assert "steadyclip.data.task" in done.stdout.split(), done.stderr
    assert "torch" not in done.stdout.split()


def test_public_names_exist():
    import steadyclip.data

    for name in steadyclip.data.__all__:
        assert getattr(steadyclip.data, name)
    with pytest.raises(AttributeError, match="attribute nothing"):
        steadyclip.data.nothing  # noqa: B018
