"""Names that lead to a model, and names that do not."""

from __future__ import annotations

import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from steadyclip.core.errors import ModelError
from steadyclip.models import load, loading


def test_importing_models_does_not_import_transformers() -> None:
    script = (
        "import sys, steadyclip.models, steadyclip.models.testing;"
        "print(sorted({'transformers', 'open_clip', 'huggingface_hub', 'torchvision'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_loading_and_saving_print_nothing_even_beside_a_broken_torchvision(
    tmp_path: Path, checkpoints: dict[str, Path]
) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    folders = [str(folder) for family, folder in checkpoints.items() if family != "open_clip"]
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from steadyclip.models import load\n"
        f"for folder in {folders}: load(folder).save({str(tmp_path / 'saved')!r})"
    )
    done = subprocess.run([sys.executable, "-W", "default", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model 'icon-small'.*Did you mean 'icons-small'\?"):
        load("icon-small")
    with pytest.raises(ModelError, match="not a directory"):
        load(tmp_path / "nothing")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="give the directory"):
        load(tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"config.json is missing"):
        load(tmp_path)


def test_an_installed_model_without_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loading, "load_extension", lambda group, name: tmp_path)
    with pytest.raises(ModelError, match="'icons-small' are not in this installation"):
        load("icons-small")


def test_a_hub_id_without_a_network_fails_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # In a process of its own: the hub's client reads its settings when it is imported.
    script = (
        "from steadyclip.models import load; from steadyclip.core.errors import ModelError\n"
        "try: load('owner/name')\n"
        "except ModelError as error: print(error)"
    )
    for name, value in {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "'owner/name' is not a directory here, not in the cache, and the hub cannot be reached" in done.stdout
    assert (done.stdout.count("\n"), done.stderr) == (1, "")
    assert time.monotonic() - start < 60


@pytest.mark.parametrize(
    ("files", "weights"),
    [
        (["config.json", "model.safetensors", "pytorch_model.bin"], "model*.safetensors"),
        (["open_clip_config.json", "open_clip_model.safetensors"], "open_clip_model.safetensors"),
    ],
)
def test_a_hub_id_downloads_one_form_of_the_weights_and_no_pickle(
    monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path], files: list[str], weights: str
) -> None:
    siblings = [SimpleNamespace(rfilename=name) for name in files]
    info = SimpleNamespace(sha="abc", siblings=siblings)
    asked = {}

    def download(hub_id: str, **options: Any) -> str:
        asked.update(options, hub_id=hub_id)
        return str(checkpoints["clip"])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, hub_id, timeout: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert load("owner/name").name == "owner/name"
    assert (asked["hub_id"], asked["revision"], asked["local_files_only"]) == ("owner/name", "abc", False)
    assert [name for name in files if any(fnmatch(name, p) for p in asked["allow_patterns"])] == files[:2]
    assert weights in asked["allow_patterns"]


def test_a_hub_id_without_a_network_comes_from_the_cache(
    monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise TimeoutError

    def cached(hub_id: str, *, local_files_only: bool, **options: Any) -> str:
        assert local_files_only
        return str(checkpoints["clip"])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", cached)
    assert load("owner/name").family == "clip"
