"""Pools: every kind of source, what is wrong with them, kills, and several processes."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from anchor_world import png, write_folder, write_parquet, write_tar

from steadyclip import load
from steadyclip.anchors import Pool, embed_pool
from steadyclip.anchors.sources import find_parts
from steadyclip.core.errors import DataError
from steadyclip.data.decode import decode
from steadyclip.models.testing import tiny, write_tiny

WRITERS = {
    "parquet": lambda folder, first, count: write_parquet(folder / "pairs.parquet", first, count),
    "tar": lambda folder, first, count: write_tar(folder / "shard.tar", first, count),
    "tar.gz": lambda folder, first, count: write_tar(folder / "shard.tar.gz", first, count, ".json"),
    "folder": lambda folder, first, count: write_folder(folder / "images", first, count),
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", WRITERS)
def test_features_and_pairs_are_those_of_the_source(kind, model, tmp_path) -> None:
    source = WRITERS[kind](tmp_path, 100, 20)
    pool = embed_pool(model, [source], tmp_path / "pool", batch_size=8, part_rows=13)
    assert len(pool) == 20
    images_BCHW = torch.stack([model.preprocess(decode(png(n), "")) for n in range(100, 120)])
    texts = [f"image number {n}" for n in range(100, 120)]
    with torch.inference_mode():
        expected = {"image": model.encode_image(images_BCHW), "text": model.encode_text(texts)}
    for name, features in expected.items():
        arrays = [pool.features(part, name) for part in pool.manifest.parts]
        assert np.allclose(np.concatenate(arrays), features.numpy(), atol=1e-5)
        assert all(isinstance(array, np.memmap) for array in arrays)
    found = list(pool.pairs([0, 3, 12, 13, 19]))
    assert [pair.row for pair in found] == [0, 3, 12, 13, 19]
    assert [pair.image for pair in found] == [png(100 + n) for n in (0, 3, 12, 13, 19)]
    assert found[1].text == "image number 103"
    assert "pair-103" in found[1].key


@pytest.mark.parametrize("kind", WRITERS)
def test_a_part_goes_on_from_any_pair(kind, tmp_path) -> None:
    (part,) = find_parts([WRITERS[kind](tmp_path, 0, 17)])
    through = [(row.key, row.text, row.load()) for row in part.rows(0)]
    assert len(through) == 17
    for start in (1, 7, 16, 17):
        assert [(row.key, row.text, row.load()) for row in part.rows(start)] == through[start:]


def test_parquet_files_of_img2dataset(model, tmp_path) -> None:
    table = pa.table(
        {
            "key": ["0000", "0001", "0002"],
            "jpg": pa.array([png(0), None, png(2)], pa.binary()),
            "txt": ["image number 0", "image number 1", "image number 2"],
            "status": ["success", "failed_to_download", "success"],
        }
    )
    parquet.write_table(table, tmp_path / "00000.parquet")
    said: list[str] = []
    pool = embed_pool(model, [tmp_path / "00000.parquet"], tmp_path / "pool", log=said.append)
    assert said == ["left out 0001: no image (failed_to_download)"]
    assert [(pair.text, pair.image) for pair in pool.pairs([0, 1])] == [
        ("image number 0", png(0)), ("image number 2", png(2)),
    ]  # fmt: skip


def test_shards_of_img2dataset_that_were_not_finished_are_left_out(tmp_path, capsys) -> None:
    for i in range(3):
        write_tar(tmp_path / f"{i:05}.tar", 5 * i, 5)
        (tmp_path / f"{i:05}.parquet").write_bytes(b"what img2dataset says of the shard")
    assert len(find_parts([tmp_path])) == 3  # of another program: nothing is known of them
    for i in range(2):
        (tmp_path / f"{i:05}_stats.json").write_text("{}")
    assert [part.name for part in find_parts([tmp_path])] == ["00000.tar", "00001.tar"]
    assert "1 shard without _stats.json" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["header", "cut"])
def test_a_damaged_or_cut_shard_is_named_and_what_is_before_is_used(how, model, tmp_path) -> None:
    shard = write_tar(tmp_path / "shard.tar", 0, 6)
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:
        at = [member.offset for member in tar][8]  # the picture of the fifth pair
    shard.write_bytes(content[:at] + (b"x" * 512 + content[at + 512 :] if how == "header" else b""))
    said: list[str] = []
    with pytest.raises(DataError, match=r"1 of 1 parts .* shard\.tar/after pair-3: the shard is broken .*failed 1"):
        embed_pool(model, [shard], tmp_path / "pool", log=said.append)
    assert said[-1].startswith("left out shard.tar/after pair-3: the shard is broken here (")
    pool = embed_pool(model, [shard], tmp_path / "pool", allow_failed=1, log=said.append)
    assert len(pool) == 4
    assert said[-1] == "1 of 1 parts are missing or damaged: shard.tar"
    assert list(pool.manifest.failed) == ["shard.tar"]


def test_missing_shards_are_named_counted_and_may_be_allowed(model, tmp_path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for i in (0, 2):
        write_tar(folder / f"{i:05}.tar", 5 * i, 5)
    for i in range(3):  # img2dataset has finished all three
        (folder / f"{i:05}_stats.json").write_text("{}")
    (tmp_path / "cut.parquet").write_bytes(write_parquet(tmp_path / "whole.parquet", 20, 5).read_bytes()[:-9])
    sources = [folder, tmp_path / "cut.parquet", tmp_path / "gone.tar"]
    with pytest.raises(DataError, match=r"3 of 5 parts .*00001\.tar: there is no such file, but 00001_stats\.json"):
        embed_pool(model, sources, tmp_path / "pool", allow_failed=2)
    assert not (tmp_path / "pool").exists()
    said: list[str] = []
    pool = embed_pool(model, sources, tmp_path / "pool", allow_failed=3, log=said.append)
    assert len(pool) == 10
    assert [Path(name).name for name in pool.manifest.failed] == ["00001.tar", "gone.tar", "cut.parquet"]
    assert said[-1].startswith("3 of 5 parts are missing or damaged: ")
    assert next(pool.pairs([7])).image == png(12)


@pytest.mark.parametrize(("features", "precision"), [("float16", "fp32"), ("float32", "bf16")])
def test_how_features_are_stored_and_computed_belongs_to_the_pool(features, precision, model, tmp_path) -> None:
    source = write_parquet(tmp_path / "pairs.parquet", 0, 23)
    plain = embed_pool(model, [source], tmp_path / "plain", batch_size=8)
    pool = embed_pool(model, [source], tmp_path / "pool", batch_size=8, features=features, precision=precision)
    for kind in ("image", "text"):
        (exact, stored) = (each.features(each.manifest.parts[0], kind) for each in (plain, pool))
        assert isinstance(stored, np.memmap)
        assert stored.dtype == features
        difference = np.abs(exact - stored.astype(np.float32)).max()
        assert 0 < difference < (5e-4 if features == "float16" else 2e-2)
    assert (pool.manifest.features, pool.manifest.precision) == (features, precision)
    assert pool.hash != plain.hash
    name, value = ("features", features) if features != "float32" else ("precision", precision)
    with pytest.raises(DataError, match=rf"was begun with {name} '{value}' instead of '\w+32'"):
        embed_pool(model, [source], tmp_path / "pool", batch_size=8)
    again = embed_pool(model, [source], tmp_path / "pool", batch_size=8, features=features, precision=precision)
    assert again.hash == pool.hash


def test_pools_of_before_are_read_as_they_were(model, tmp_path) -> None:
    """Their manifests know nothing of how features are stored, and their checksums cover what they know."""
    source = write_parquet(tmp_path / "pairs.parquet", 0, 5)
    embed_pool(model, [source], tmp_path / "pool")
    content = json.loads((tmp_path / "pool" / "manifest.json").read_text())
    assert content["schema"] == 1
    assert not {"features", "precision", "failed", "adopted"} & {*content, *content["parts"][0]}


def test_the_same_command_again_computes_nothing(model, tmp_path, monkeypatch) -> None:
    source = write_parquet(tmp_path / "pairs.parquet", 0, 9)
    pool = embed_pool(model, [source], tmp_path / "pool", batch_size=4)
    monkeypatch.setattr(type(model), "encode_image", lambda *_: pytest.fail("computed again"))
    assert embed_pool(model, [source], tmp_path / "pool", batch_size=4).hash == pool.hash


def test_a_damaged_part_is_told_once_and_embedded_again(model, tmp_path) -> None:
    source = write_parquet(tmp_path / "pairs.parquet", 0, 9)
    pool, said = embed_pool(model, [source], tmp_path / "pool", batch_size=4), []
    before = files(tmp_path / "pool")
    (tmp_path / "pool" / pool.manifest.parts[0].folder / "part.json").write_text("{")
    embed_pool(model, [source], tmp_path / "pool", batch_size=4, log=said.append)
    assert [line for line in said if line.startswith("embedded again: ")] == said
    assert len(said) == 1
    assert files(tmp_path / "pool") == before


@pytest.mark.parametrize("kind", WRITERS)
def test_broken_pictures_are_named_and_nothing_else_is_lost(kind, model, tmp_path) -> None:
    if kind == "folder":
        source = write_folder(tmp_path / "images", 0, 6)
        (source / "pair-2.png").write_bytes(b"no image")
        (source / "pair-4.png").unlink()
    else:
        monkey = pytest.MonkeyPatch()
        with monkey.context() as patch:
            patch.setattr("anchor_world.png", lambda n: b"no image" if n == 2 else b"" if n == 4 else png(n))
            source = WRITERS[kind](tmp_path, 0, 6)
    said = []
    pool = embed_pool(model, [source], tmp_path / "pool", batch_size=2, log=said.append)
    assert len(pool) == 4
    assert len(said) == 2
    assert all(line.startswith("left out ") and "pair-" in line for line in said)
    assert "not an image that Pillow can read" in said[0]
    assert [key for key, _ in pool.manifest.parts[0].skipped] == [line.split()[2].rstrip(":") for line in said]
    assert [pair.text for pair in pool.pairs(range(4))] == [f"image number {n}" for n in (0, 1, 3, 5)]


def test_a_shard_cut_off_keeps_what_it_holds(model, tmp_path) -> None:
    shard = write_tar(tmp_path / "shard.tar", 0, 10)
    with tarfile.open(shard) as tar:
        end = tar.getmembers()[13].offset_data + 3  # in the text of the seventh pair
    shard.write_bytes(shard.read_bytes()[:end])
    said = []
    pool = embed_pool(model, [shard], tmp_path / "pool", batch_size=4, allow_failed=1, log=said.append)
    assert len(pool) == 6
    assert "it has no text" in said[0]
    assert "the shard is broken here" in said[1]


def test_samples_of_a_shard_without_text_or_picture_are_named(model, tmp_path) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    for name, data in {"a.png": png(1), "b.txt": b"a text", "c.png": png(2), "c.txt": b"\n", "d.png": png(3)}.items():
        (folder / name).write_bytes(data)
    (folder / "d.txt").write_text("good")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    said = []
    pool = embed_pool(model, [tmp_path / "shard.tar"], tmp_path / "pool", log=said.append)
    assert [pair.text for pair in pool.pairs([0])] == ["good"]
    assert [line.split(": ")[1] for line in said] == ["it has no text", "no image in the sample", "it has no text"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["parquet", "tar.gz"])
@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(kind, at, model, tmp_path, monkeypatch) -> None:
    source = WRITERS[kind](tmp_path, 0, 23)
    embed_pool(model, [source], tmp_path / "whole", batch_size=4)
    passes = []
    encode = type(model).encode_image

    def killed_at(self, images_BCHW):
        if len(passes) == at:
            raise Killed
        passes.append(len(images_BCHW))
        return encode(self, images_BCHW)

    with monkeypatch.context() as patch:
        patch.setattr(type(model), "encode_image", killed_at)
        with pytest.raises(Killed):
            embed_pool(model, [source], tmp_path / "pool", batch_size=4, workers=2)
    # what a kill leaves in the middle of writing
    (part,) = [tmp_path / "pool" / path.name for path in (tmp_path / "whole").iterdir() if path.is_dir()]
    part.mkdir(exist_ok=True)
    for name in ("image.npy", ".text.npy.temporary", "rows.jsonl"):
        with open(part / name, "ab") as file:
            file.write(b'{"key": "pair-')
    with pytest.raises(DataError, match="is not finished"):
        Pool.open(tmp_path / "pool")
    done = len(passes)
    monkeypatch.setattr(type(model), "encode_image", lambda m, x: passes.append(len(x)) or encode(m, x))
    embed_pool(model, [source], tmp_path / "pool", batch_size=4)
    assert len(passes) - done <= 6 - done + 1  # at most one batch twice
    assert files(tmp_path / "pool") == files(tmp_path / "whole")


SCRIPT = """
    import sys
    from steadyclip import load
    from steadyclip.anchors import embed_pool
    model, out, *sources = sys.argv[1:]
    print("ready", flush=True)
    sys.stdin.readline()
    embed_pool(load(model), sources, out, batch_size=4, part_rows=6, log=lambda line: None)
"""


def start(*words) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, words)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_share_the_work_and_a_killed_one_loses_nothing(tmp_path) -> None:
    write_tiny("clip", tmp_path / "model")
    sources = [write_tar(tmp_path / f"{i}.tar", 12 * i, 12) for i in range(2)]
    sources.append(write_parquet(tmp_path / "pairs.parquet", 50, 20))
    both = [start(tmp_path / "model", tmp_path / "pool", *sources) for _ in range(2)]
    killed = start(tmp_path / "model", tmp_path / "again", *sources)
    for process in (*both, killed):
        process.stdin.write("\n")
        process.stdin.flush()
    while killed.poll() is None and not list((tmp_path / "again").glob("*/part.json")):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    assert [process.wait(300) for process in both] == [0, 0]
    assert killed.wait(300) in (0, -signal.SIGKILL)
    for process in (*both, killed):
        process.stdin.close()
        process.stdout.close()
    embed_pool(load(tmp_path / "model"), sources, tmp_path / "again", batch_size=4, part_rows=6)
    assert len(Pool.open(tmp_path / "pool")) == 44
    assert files(tmp_path / "again") == files(tmp_path / "pool")


def test_other_weights_or_sources_are_one_line(model, tmp_path) -> None:
    source = write_parquet(tmp_path / "pairs.parquet", 0, 5)
    pool = embed_pool(model, [source], tmp_path / "pool")
    other = tiny("clip", seed=1)
    with pytest.raises(DataError, match=f"other weights .*{model.weights_hash}.*{other.weights_hash}"):
        pool.check(other)
    with pytest.raises(DataError, match="was begun with weights"):
        embed_pool(other, [source], tmp_path / "pool")
    write_parquet(tmp_path / "more.parquet", 5, 5)
    with pytest.raises(DataError, match=r"was begun with other sources \(.*more\.parquet\)"):
        embed_pool(model, [source, tmp_path / "more.parquet"], tmp_path / "pool")


def test_a_source_that_has_gone_changed_or_moved(model, tmp_path) -> None:
    source = write_tar(tmp_path / "shard.tar", 0, 5)
    pool = embed_pool(model, [source], tmp_path / "pool")
    (tmp_path / "elsewhere").mkdir()
    moved = source.rename(tmp_path / "elsewhere" / "shard.tar")
    with pytest.raises(DataError, match=r"shard\.tar: there is no such file"):
        list(pool.pairs([1]))
    assert next(pool.pairs([1], source=moved.parent)).image == png(1)
    write_tar(source, 7, 5)
    with pytest.raises(DataError, match="has changed since it was embedded"):
        list(pool.pairs([1]))


def test_damaged_pools_are_one_line(model, tmp_path) -> None:
    source = write_parquet(tmp_path / "pairs.parquet", 0, 5)
    pool = embed_pool(model, [source], tmp_path / "pool")
    array = tmp_path / "pool" / pool.manifest.parts[0].folder / "image.npy"
    array.write_bytes(array.read_bytes()[:-40])
    with pytest.raises(DataError, match="embed it again"):
        Pool.open(tmp_path / "pool")
    (tmp_path / "pool" / "manifest.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(DataError, match=r"manifest\.json is not of a pool"):
        Pool.open(tmp_path / "pool")
    with pytest.raises(DataError, match="holds no pool"):
        Pool.open(tmp_path)


def test_sources_that_cannot_be_used_are_one_line(model, tmp_path) -> None:
    def line(source, **options) -> str:
        with pytest.raises(DataError) as caught:
            embed_pool(model, [source], tmp_path / "pool", **options)
        return str(caught.value)

    assert "no such file or folder" in line(tmp_path / "nowhere")
    assert "is no source of pairs" in line(tmp_path)
    (tmp_path / "words.txt").write_text("x")
    assert "is no source of pairs" in line(tmp_path / "words.txt")
    (tmp_path / "bad.parquet").write_text("x")
    assert "cannot be read as parquet" in line(tmp_path / "bad.parquet")
    (tmp_path / "a.csv").write_text("path,words\nx.png,hello\n")
    assert "no column 'text'; it has path, words" in line(tmp_path / "a.csv")
    assert "no column 'wrods'" in line(tmp_path / "a.csv", text_column="wrods")
    assert "no pair of the pool can be used, for instance x.png" in line(tmp_path / "a.csv", text_column="words")
    (tmp_path / "b.csv").write_text("path,text\n")
    assert "has no rows" in line(tmp_path / "b.csv")
    assert "several tables" in line(tmp_path)


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    return path


def test_of_several_texts_the_first_is_taken_and_said(model, tmp_path, capsys) -> None:
    texts = [["a dog runs", "two dogs, one cat"], ["a cow"], [], ["a cat", "a pet"]]
    table = pa.table({"image": [png(n) for n in range(4)], "caption": texts})
    parquet.write_table(table, tmp_path / "pairs.parquet")
    members: dict[str, bytes] = {}
    for n, text in enumerate(texts):
        members |= {f"{n}.png": png(n), f"{n}.json": json.dumps({"caption": text}).encode()}
    write_shard(tmp_path / "shard.tar", members)
    for source in ("pairs.parquet", "shard.tar"):
        pool = embed_pool(model, [tmp_path / source], tmp_path / f"pool-{source}", log=lambda line: None)
        assert [pair.text for pair in pool.pairs(range(len(pool)))] == ["a dog runs", "a cow", "a cat"]
        said = capsys.readouterr().err
        assert source in said
        assert "2 pairs have several texts, and the first of each is taken" in said


@pytest.mark.parametrize("text", [{"raw": "a dog"}, 0.5, True, [["a dog"]]])
def test_texts_that_are_none_are_refused(model, tmp_path, text) -> None:
    parquet.write_table(pa.table({"image": [png(0)], "caption": [text]}), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match=r"pairs.parquet row 1: caption is .*; one text is needed"):
        embed_pool(model, [tmp_path / "pairs.parquet"], tmp_path / "pool")


@pytest.mark.parametrize(
    ("about", "said"), [({"caption": {"raw": "x"}}, "caption is a structure"), (["x"], "its .json is no JSON object")]
)
def test_a_sample_whose_json_holds_no_text_is_left_out(model, tmp_path, about, said) -> None:
    members = {"0.png": png(0), "0.json": json.dumps(about).encode(), "1.png": png(1), "1.json": b'{"text": "a cat"}'}
    source, lines = write_shard(tmp_path / "shard.tar", members), list[str]()
    assert len(embed_pool(model, [source], tmp_path / "pool", log=lines.append)) == 1
    assert lines[0].startswith(f"left out shard.tar/0: {said}")


def test_paths_of_a_pool_are_keys_as_those_of_data(model, tmp_path) -> None:
    (tmp_path / "cat").mkdir()
    for n in range(3):
        (tmp_path / "cat" / f"{n}.png").write_bytes(png(n))
    paths = ["cat\\0.png", "./cat/1.png", str(tmp_path / "cat" / "2.png")]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,text", *(f"{path},a cat" for path in paths)]))
    pool = embed_pool(model, [tmp_path / "pairs.csv"], tmp_path / "pool")
    assert [pair.key for pair in pool.pairs(range(3))] == ["cat/0.png", "cat/1.png", "cat/2.png"]


def test_numbers_in_the_place_of_images_are_left_out(model, tmp_path) -> None:
    parquet.write_table(pa.table({"image": [1, 2], "text": ["a", "b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="no pair of the pool can be used"):
        embed_pool(model, [tmp_path / "pairs.parquet"], tmp_path / "pool", log=lambda line: None)
