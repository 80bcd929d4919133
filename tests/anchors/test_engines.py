"""Engines: the same anchor file, byte for byte, whoever does the units and after kills; what fails is named."""

from __future__ import annotations

import functools
import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from anchor_world import picture_set, write_parquet, write_tar
from engine_world import Letters

from steadyclip import load
from steadyclip.anchors import embed_pool, embedding, retrieve
from steadyclip.anchors.engines import TRIES, How, Work, _on_device, run, spread, take_parts
from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.models.testing import tiny, write_tiny

# Ray warns of its own settings
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")


class EnoughError(Exception):
    """What comes after is not looked at."""


def did(folder: Path) -> list[tuple[str, str]]:
    return [tuple(line.split()) for line in (folder / "log").read_text().splitlines()]  # type: ignore[misc]


def there() -> dict[str, str]:
    """The environment of another process, in which the modules of the tests are found."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}


def alone(folder: Path, names: list[str], seconds: float = 0) -> list[str]:
    """The command of another process that does these parts."""
    call = f"t.run(t.Letters(Path({str(folder)!r}), seconds={seconds}), {names})"
    return [sys.executable, "-c", f"from pathlib import Path; import engine_world as t; {call}"]


def test_each_part_is_done_once_and_what_fails_is_told(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("done before")
    failed = run(Letters(tmp_path), ["a", "b", "bad", "c"])
    assert failed == {"bad": "it is cut off."}
    assert [name for name, _ in did(tmp_path)] == ["a", "bad", "c"]
    assert run(Letters(tmp_path), ["a", "b", "c"]) == {}


def test_processes_share_the_parts(tmp_path: Path) -> None:
    names = [f"part{i}" for i in range(12)]
    assert run(Letters(tmp_path, seconds=0.3), names, How(jobs=3)) == {}
    assert sorted(name for name, _ in did(tmp_path)) == sorted(names)
    assert len({process for _, process in did(tmp_path)}) > 1


def test_each_process_has_another_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [spread(torch.device(name)) for name in ("cpu", "cuda:0", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    works: list[Work] = []

    def seen(work: Work, *_: object) -> dict[str, str]:
        works.append(work)
        raise EnoughError

    model = load("icons-small")
    monkeypatch.setattr(type(model), "device", torch.device("cuda:0"))
    monkeypatch.setattr(embedding, "run", seen)
    embed = functools.partial(embed_pool, model, [write_parquet(tmp_path / "p.parquet", 0, 2)], tmp_path / "pool")
    with pytest.raises(EnoughError):
        embed()
    assert not isinstance(works[0], embedding.EmbeddedParts)  # with the model that is loaded, where it is
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(EnoughError):
        embed()
    work = works[1]
    assert isinstance(work, embedding.EmbeddedParts)
    assert [_on_device(work, number).device for number in range(3)] == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill")
def test_a_part_that_ends_its_process_is_left_alone_after_three_times(tmp_path: Path) -> None:
    for _ in range(TRIES):
        ended = subprocess.run(alone(tmp_path, ["a", "deadly", "z"]), env=there(), check=False)
        assert ended.returncode == -signal.SIGKILL
    failed = run(Letters(tmp_path), ["a", "deadly", "z"])
    assert list(failed) == ["deadly"]
    assert "it has ended its process 3 times" in failed["deadly"]
    assert (tmp_path / "z").is_file()
    (tmp_path / "locks" / "deadly.tries").unlink()  # as the message says
    assert not (tmp_path / "locks" / "deadly.tries").exists()


def test_torchrun_starts_each_process_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(Letters(tmp_path), ["a", "b", "c", "d"]) == {}
    assert [name for name, _ in did(tmp_path)] == ["c", "d", "a", "b"]


def test_slurm_jobs_share_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", there()["PYTHONPATH"])
    names = [f"part{i}" for i in range(4)]
    said: list[str] = []
    assert run(Letters(tmp_path), names, How("slurm", 2, cluster="local"), said.append) == {}
    assert sorted(name for name, _ in did(tmp_path)) == names
    assert said == []
    assert any((tmp_path / "logs").iterdir())


def test_ray_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", there()["PYTHONPATH"])
    names = [f"part{i}" for i in range(4)]
    assert run(Letters(tmp_path), names, How("ray", 2)) == {}
    assert sorted(name for name, _ in did(tmp_path)) == names


@pytest.mark.parametrize(("engine", "extra"), [("ray", "ray"), ("slurm", "slurm")])
def test_an_engine_that_is_not_there_is_named_before_work_starts(engine, extra, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[engine], None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SteadyClipError, match=rf'pip install "steadyclip\[{extra}\]"'):
        How(engine)


ENGINES = [("local", 2), ("slurm", 2), ("ray", 2)]


def engine(name: str, jobs: int) -> How:
    """Skips where it is not installed."""
    for package in {"slurm": ["submitit"], "ray": ["ray"]}.get(name, []):
        pytest.importorskip(package)
    return How(name, jobs, cluster="local")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory):
    """A pool of 40 pairs in parts of seven, with copies in other parts, and six fine-tune images."""
    folder = tmp_path_factory.mktemp("world")
    model = tiny("clip")
    sources = [write_parquet(folder / "a.parquet", 0, 30), write_parquet(folder / "b.parquet", 3, 10)]
    return model, embed_pool(model, sources, folder / "pool", part_rows=7), picture_set(folder / "images")


def content(folder: Path) -> dict[str, bytes]:
    """The files of a pool, without locks and logs."""
    found = (path for path in folder.rglob("*") if path.is_file() and "logs" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found if path.suffix != ".lock"}


@pytest.mark.parametrize(("name", "jobs"), ENGINES)
def test_every_engine_embeds_the_same_pool(tmp_path: Path, name: str, jobs: int) -> None:
    how = engine(name, jobs)
    write_tiny("clip", tmp_path / "model")
    model = load(tmp_path / "model")
    sources = [write_tar(tmp_path / f"{i}.tar", 5 * i, 5) for i in range(4)]
    embed_pool(model, sources, tmp_path / "once", batch_size=2)
    embed_pool(model, sources, tmp_path / "made", batch_size=2, how=how)
    assert content(tmp_path / "made") == content(tmp_path / "once")


def test_a_part_that_cannot_be_embedded_costs_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyclip.anchors import embedding

    model, real = tiny("clip"), embedding.embed_part
    sources = [write_tar(tmp_path / f"{i}.tar", 5 * i, 5) for i in range(3)]
    whole = embed_pool(model, sources, tmp_path / "whole")

    def full(model, part, *rest, **told) -> None:
        if part.name == "1.tar":
            raise DataError("the disk is full.")
        real(model, part, *rest, **told)

    monkeypatch.setattr(embedding, "embed_part", full)
    with pytest.raises(DataError, match=r"1 of 3 parts .* 00001-1-tar: the disk is full\. .*--allow-failed 1"):
        embed_pool(model, sources, tmp_path / "pool")
    assert len(list((tmp_path / "pool").glob("*/part.json"))) == 2
    without = embed_pool(model, sources, tmp_path / "without", allow_failed=1)
    assert (len(without), list(without.manifest.failed)) == (10, ["00001-1-tar"])
    monkeypatch.setattr(embedding, "embed_part", real)
    assert embed_pool(model, sources, tmp_path / "pool").hash == whole.hash
    assert embed_pool(model, sources, tmp_path / "without").hash == whole.hash


OPTIONS = {"k": 4, "near_duplicate": None, "distinct": 0.9999, "unit_rows": 10}


@pytest.mark.parametrize(("name", "jobs"), [("local", 1), *ENGINES])
def test_every_engine_writes_the_same_file(world, tmp_path: Path, name: str, jobs: int) -> None:
    how = engine(name, jobs)
    model, pool, images = world
    once = retrieve(model, pool, images, tmp_path / "once.parquet", **{**OPTIONS, "unit_rows": 1000})
    made = retrieve(model, pool, images, tmp_path / "made.parquet", how=how, **OPTIONS)
    assert made.path.read_bytes() == once.path.read_bytes()
    assert not (tmp_path / "made.parquet.parts").exists()
    for key in images.keys:  # copies of a picture are one pair
        texts = [pair.text for pair in made.of(key)]
        assert len(set(texts)) == len(texts) == 4


def test_units_that_are_done_are_not_searched_again(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyclip.anchors import finding

    model, pool, images = world
    expected = retrieve(model, pool, images, tmp_path / "expected.parquet", **OPTIONS)
    searched, real = [], finding.search_unit

    def search_unit(unit, *arguments):
        if len(searched) == 2:
            raise DataError("the disk is gone.")
        searched.append(unit.first)
        return real(unit, *arguments)

    monkeypatch.setattr(finding, "search_unit", search_unit)
    with pytest.raises(DataError, match=r"units of the pool could not be searched; .* \d+: the disk is gone\."):
        retrieve(model, pool, images, tmp_path / "out.parquet", **OPTIONS)
    kept = list((tmp_path / "out.parquet.parts").glob("0*.safetensors"))
    assert len(kept) == 2
    kept[0].write_bytes(b"damaged")
    before = list(searched)
    monkeypatch.setattr(finding, "search_unit", lambda unit, *rest: (searched.append(unit.first), real(unit, *rest))[1])
    again = retrieve(model, pool, images, tmp_path / "out.parquet", **OPTIONS)
    assert again.path.read_bytes() == expected.path.read_bytes()
    later = searched[len(before) :]
    assert len(set(later) & set(before)) == 1  # the damaged one


def test_a_result_that_cannot_be_read_any_more_is_named(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyclip.anchors import finding

    model, pool, images = world
    monkeypatch.setattr(finding, "run", lambda *rest: {})
    with pytest.raises(DataError, match=r"000000000000-\w{16}\.safetensors cannot be read any more: the same command"):
        retrieve(model, pool, images, tmp_path / "out.parquet", **OPTIONS)


def test_waiting_for_another_process(tmp_path: Path) -> None:
    with subprocess.Popen(alone(tmp_path, ["a"], seconds=1), env=there()) as other:
        while not (tmp_path / "log").exists():
            time.sleep(0.05)
        assert take_parts(Letters(tmp_path), ["a", "b"]) == {}
        assert other.wait() == 0
    assert sorted(name for name, _ in did(tmp_path)) == ["a", "b"]
