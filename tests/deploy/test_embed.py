"""Features on disk: equal to the predictor's, the same files after a stop, exact search, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.core.errors import DataError
from steadyclip.deploy.embedding import embed_folder, search


@pytest.fixture(scope="module")
def predictor(run_of) -> sc.Predictor:
    return sc.Predictor(run_of())


@pytest.fixture
def paths(photos: Path, tmp_path: Path) -> list[str]:
    """Eleven images and a broken one."""
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = [str(path) for path in sorted(photos.rglob("*.png"))[::10]]
    return [*found[:4], str(tmp_path / "broken.png"), *found[4:]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_layout_and_the_numbers(predictor, paths: list[str], tmp_path: Path) -> None:
    about = embed_folder(predictor, "run", paths, tmp_path / "e", rows=5, batch_size=3)
    good = [path for path in paths if "broken" not in path]
    shards = [np.load(tmp_path / "e" / "img_emb" / f"img_emb_{i}.npy", allow_pickle=False) for i in range(3)]
    names = [
        name
        for i in range(3)
        for name in parquet.read_table(tmp_path / "e" / "metadata" / f"metadata_{i}.parquet")["image_path"].to_pylist()
    ]
    assert [len(shard) for shard in shards] == [4, 5, 2]  # the broken one is in the first five
    assert names == good
    assert np.allclose(np.concatenate(shards), predictor.embed(good), atol=1e-6)
    assert (about.images, about.skipped) == (11, ((paths[4], "not an image that Pillow can read"),))
    half = embed_folder(predictor, "run", paths, tmp_path / "h", half=True)
    assert half.dtype == "float16"
    assert np.load(tmp_path / "h" / "img_emb" / "img_emb_0.npy").dtype == np.float16


@pytest.mark.parametrize(("stop", "batch_size"), [(1, 1), (4, 1), (6, 1), (9, 1), (2, 3), (4, 3), (7, 3)])
def test_stopped_anywhere_it_ends_with_the_same_files(
    stop: int, batch_size: int, predictor, paths: list[str], tmp_path: Path
) -> None:
    embed_folder(predictor, "run", paths, tmp_path / "whole", rows=5, batch_size=batch_size)

    def interrupt(done: int, total: int) -> None:
        assert total == len(paths)
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_folder(predictor, "run", paths, tmp_path / "again", rows=5, batch_size=batch_size, progress=interrupt)
    with pytest.raises(DataError, match="is not finished: give its `steadyclip embed` command again"):
        search(tmp_path / "again", np.zeros(24), "x")
    for torn in (tmp_path / "again").rglob("*.unfinished"):
        torn.write_bytes(torn.read_bytes() + b"[torn")
    embed_folder(predictor, "run", paths, tmp_path / "again", rows=5, batch_size=batch_size)
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_search_is_exact(predictor, paths: list[str], tmp_path: Path, run_of, capsys) -> None:
    source, folder, page = str(run_of()), tmp_path / "e", tmp_path / "page.html"
    assert main(["embed", source, *paths, "--out", str(folder), "--shard", "5"]) == 0
    assert "1 image cannot be read, for instance" in capsys.readouterr().out
    good = [path for path in paths if "broken" not in path]
    query = predictor.embed_text("a drawing of a gray.")
    cosine = predictor.embed(good) @ query
    order = np.argsort(-cosine, kind="stable")[:3]
    words = ["search", str(folder), "a drawing of a gray.", "--top", "3"]
    assert main([*words, "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["path"] for each in found] == [good[i] for i in order]
    assert [each["score"] for each in found] == pytest.approx(cosine[order].tolist(), abs=1e-6)
    assert page.read_text(encoding="utf-8").count("data:image/jpeg;base64,") == 3
    assert main(["search", str(folder), "--image", good[5], "--top", "1"]) == 0
    assert capsys.readouterr().out == f"1.0000  {good[5]}\n"
    assert main(["search", str(folder), "--image", good[5], "--source", str(run_of("linear-probe"))]) == 1
    assert "features of different models cannot be compared" in capsys.readouterr().err
    assert main(["search", str(folder)]) == 2
    assert "give words or --image" in capsys.readouterr().err
    assert main(["embed", source, *paths[:3], "--out", str(folder), "--shard", "5"]) == 1
    assert "holds features of other images: name another --out" in capsys.readouterr().err
    assert main(["search", str(tmp_path), "x"]) == 1
    assert "embedding.json" in capsys.readouterr().err


def test_damage_is_found(predictor, paths: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "e"
    query = predictor.embed(paths[0])
    about = embed_folder(predictor, "run", paths, folder, rows=5)
    whole = search(folder, query, about.weights)
    for name in about.files:
        content = (folder / name).read_bytes()
        for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2], b"", None):
            (folder / name).unlink()
            if damaged is not None:
                (folder / name).write_bytes(damaged)
            with pytest.raises(DataError, match=f"{Path(name).name}"):
                search(folder, query, about.weights, top=len(paths))
        (folder / name).write_bytes(content)
    assert search(folder, query, about.weights) == whole


def test_a_pretrained_model_needs_no_names(run_of, paths: list[str], tmp_path: Path) -> None:
    model = str(run_of().parent / "model-clip")
    assert main(["embed", model, *paths, "--out", str(tmp_path / "e")]) == 0
    assert main(["search", str(tmp_path / "e"), "a day"]) == 0
    with pytest.raises(DataError, match="none of the 1 images can be read, for instance"):
        embed_folder(sc.Predictor(run_of()), "run", [paths[4]], tmp_path / "n")
