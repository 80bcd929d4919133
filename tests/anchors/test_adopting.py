"""clip-retrieval's output as a pool: the same as embedding, nothing copied, and what is wrong with it in one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from anchor_world import picture_set, png, write_folder

from steadyclip.anchors import Pool, adopt_pool, embed_pool, retrieve
from steadyclip.cli import main
from steadyclip.core.errors import DataError
from steadyclip.data.decode import decode
from steadyclip.models.testing import tiny, write_tiny


def write_output(model, folder: Path, parts=(13, 9, 8), dtype=np.float16) -> Path:
    """What clip-retrieval writes for the pairs 0, 1, 2, ... of ``images``, a folder that is made beside it."""
    first = 0
    write_folder(folder.parent / "images", 0, sum(parts))
    for number, count in enumerate(parts):
        pairs = range(first, first + count)
        images_BCHW = torch.stack([model.preprocess(decode(png(n), "")) for n in pairs])
        texts = [f"image number {n}" for n in pairs]
        with torch.inference_mode():
            found = {"img_emb": model.encode_image(images_BCHW), "text_emb": model.encode_text(texts)}
        for kind, features in found.items():
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"{kind}_{number}.npy", features.numpy().astype(dtype))
        (folder / "metadata").mkdir(exist_ok=True)
        table = pa.table({"image_path": [f"pair-{n}.png" for n in pairs], "caption": texts})
        parquet.write_table(table, folder / "metadata" / f"metadata_{number}.parquet")
        first += count
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_output(tiny("clip"), tmp_path_factory.mktemp("written") / "output")


@pytest.fixture
def output(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(written.parent, tmp_path / "there")
    return tmp_path / "there" / "output"


def adopt(model, output: Path, out: Path, **options) -> Pool:
    return adopt_pool(model, output, out, images=output.parent / "images", **options)


def test_it_is_the_pool_that_embedding_makes_and_copies_nothing(model, written, tmp_path) -> None:
    images, said = written.parent / "images", list[str]()
    pool = adopt(model, written, tmp_path / "adopted", log=said.append)
    embedded = embed_pool(model, [images], tmp_path / "embedded", features="float16", part_rows=11)
    assert [path.name for path in pool.path.iterdir()] == ["manifest.json"]
    assert said == []
    assert pool.manifest.adopted is not None
    assert pool.manifest.adopted.compared == 16
    assert 0.999 < pool.manifest.adopted.lowest <= 1.001
    pools = pool, embedded
    stored = [np.concatenate([each.features(p, "image") for p in each.manifest.parts]) for each in pools]
    assert np.abs(stored[0].astype(np.float32) - stored[1]).max() < 1e-3
    assert isinstance(pool.features(pool.manifest.parts[0], "image"), np.memmap)
    pairs = [[(pair.row, pair.text, pair.image) for pair in each.pairs([0, 7, 12, 13, 29])] for each in pools]
    assert pairs[0] == pairs[1]
    tuned = picture_set(tmp_path / "tuned")
    options = {"k": 3, "near_duplicate": None, "query": "image"}
    found = [retrieve(model, each, tuned, tmp_path / f"{i}.parquet", **options) for i, each in enumerate(pools)]
    columns = [[anchors.table.column(name).to_pylist() for name in ("query", "rank", "text")] for anchors in found]
    assert columns[0] == columns[1]
    assert adopt(model, written, tmp_path / "adopted").hash == pool.hash  # again: nothing changes
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").touch()
    with pytest.raises(DataError, match="holds other files"):
        adopt(model, written, tmp_path / "other")
    with pytest.raises(DataError, match="holds a pool that was embedded"):
        adopt(model, written, tmp_path / "embedded")
    with pytest.raises(
        DataError, match=r"was begun with features that were adopted from .*output: name another folder"
    ):
        embed_pool(model, [images], tmp_path / "adopted")


def test_other_weights_are_refused_and_missing_images_too(model, written, tmp_path) -> None:
    with pytest.raises(DataError, match=r"made by other weights .* the image pair-\d+\.png has the cosine .*--model"):
        adopt(tiny("clip", seed=1), written, tmp_path / "pool")
    with pytest.raises(DataError, match=r"0 of 30 pairs .* \(pair-0\.png: no such file.*--images.*--unchecked"):
        adopt_pool(model, written, tmp_path / "pool")
    assert not (tmp_path / "pool").exists()
    pool = adopt_pool(model, written, tmp_path / "pool", unchecked=True)
    assert pool.manifest.adopted is not None
    assert pool.manifest.adopted.compared == 0
    with pytest.raises(DataError, match=r"metadata_0\.parquet row 4: its image cannot be read .*--pool-source"):
        list(pool.pairs([3]))
    assert next(pool.pairs([14], source=written.parent / "images")).image == png(14)


def put(kind: str, array: np.ndarray) -> Callable[[Path], None]:
    """Another array in the place of part 1."""
    return lambda folder: np.save(folder / kind / f"{kind}_1.npy", array)


def cut(folder: Path) -> None:
    file = folder / "img_emb" / "img_emb_1.npy"
    file.write_bytes(file.read_bytes()[:-40])


def lose(*kinds: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for kind in kinds for path in (folder / kind).glob("*_1.*")] and None


HALF = np.float16
DAMAGE = {
    "rows": (
        put("img_emb", np.zeros((8, 24), HALF)),
        r"img_emb_1\.npy has the shape \(8, 24\), but .*_1\.parquet has 9",
    ),
    "missing": (lose("text_emb"), r"text_emb_1\.npy: there is no such file"),
    "gap": (lose("img_emb", "text_emb", "metadata"), r"img_emb_1\.npy: there is no such file"),
    "width": (put("img_emb", np.zeros((9, 32), HALF)), r"img_emb_1\.npy has .* width 32, those of the model have 24"),
    "cut": (cut, r"img_emb_1\.npy cannot be read"),
    "pickle": (put("img_emb", np.array([{}] * 9)), r"img_emb_1\.npy cannot be read"),
    "nan": (put("text_emb", np.full((9, 24), np.nan, HALF)), r"text_emb_1\.npy row 0 \(from 0\) .* no finite numbers"),
    "length": (put("img_emb", np.ones((9, 24), HALF)), r"img_emb_1\.npy row 0 \(from 0\) has the length 4\.9, not 1"),
    "integers": (put("img_emb", np.ones((9, 24), int)), r"hold float16 and int64: float16 is needed"),
    "table": (
        lambda f: (f / "metadata/metadata_1.parquet").write_bytes(b"PAR1"),
        r"_1\.parquet cannot be read as parq",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_part_that_does_not_fit_is_one_line_and_may_be_left_out(kind, model, output, tmp_path) -> None:
    damage, line = DAMAGE[kind]
    damage(output)
    with pytest.raises(DataError, match=line + ".*--allow-failed 1") as caught:
        adopt(model, output, tmp_path / "pool", unchecked=kind == "length")  # which is other features, too
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pool").exists()
    said: list[str] = []
    pool = adopt_pool(model, output, tmp_path / "pool", unchecked=True, allow_failed=1, log=said.append)
    assert len(pool) == 21
    assert said == ["1 parts are missing or damaged, and left out: 1"]
    assert list(pool.manifest.failed) == ["1"]


def test_a_folder_of_another_kind_and_pairs_without_captions(model, output, tmp_path) -> None:
    with pytest.raises(DataError, match=r"img_emb: there is no such folder\. Name what `clip-retrieval inference"):
        adopt_pool(model, tmp_path, tmp_path / "pool")
    file = output / "metadata" / "metadata_0.parquet"
    table = parquet.read_table(file)
    parquet.write_table(table.rename_columns(["image_path", "text"]), file)
    with pytest.raises(DataError, match="is not metadata of clip-retrieval: it has no column 'caption'"):
        adopt_pool(model, output, tmp_path / "pool", unchecked=True)
    parquet.write_table(table.set_column(1, "caption", pa.array(["", None, *["x"] * 11])), file)
    said: list[str] = []
    adopt_pool(model, output, tmp_path / "pool", unchecked=True, log=said.append)
    assert said == ["2 of 30 pairs have no caption: they are in the pool with an empty text"]


def test_files_that_change_afterwards_are_named(model, output, tmp_path) -> None:
    pool = adopt(model, output, tmp_path / "pool")
    file = output / "img_emb" / "img_emb_1.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(DataError, match=r"img_emb_1\.npy was changed or damaged: put the old file back, or adopt"):
        list(pool.chunks(["image"], 100))
    file.unlink()
    with pytest.raises(DataError, match=r"img_emb_1\.npy cannot be read .*: adopt its folder again"):
        Pool.open(tmp_path / "pool")


def test_the_command(written, tmp_path, capsys) -> None:
    write_tiny("clip", tmp_path / "model")
    words = f"anchors adopt {written} --model {tmp_path}/model --images {written.parent}/images --out {tmp_path}/pool"
    assert main(words.split()) == 0
    assert "16 pairs embedded again, lowest cosine" in capsys.readouterr().out
    assert main([*words.split(), "--images", f"{tmp_path}/nowhere"]) == 1
    assert "nowhere: there is no such folder" in capsys.readouterr().err
