"""Search against a numpy oracle, near-duplicates, the random control, and what people get wrong."""

import importlib.util
import math
import sys

import numpy as np
import pytest
import torch
from anchor_world import make_pool, picture_set, unit, write_parquet

from steadyclip.anchors import Captions, embed_pool, random_like, retrieve
from steadyclip.anchors.retrieval import faiss_rows
from steadyclip.anchors.search import Queries, _top, search
from steadyclip.core.errors import DataError, UsageError
from steadyclip.models.testing import tiny

ENGINES = (search, *((faiss_rows,) if importlib.util.find_spec("faiss") else ()))


@pytest.fixture(scope="module")
def arrays():
    """40,000 pairs, more than a chunk, and 37 queries."""
    rng = np.random.default_rng(0)
    queries = {kind: unit(rng, 37, 16) for kind in ("image", "text")}
    features = {kind: unit(rng, 40_000, 16) for kind in ("image", "text")}
    features["image"][123], features["image"][39_999] = queries["image"][5], queries["image"][5]
    return queries, features


@pytest.fixture(scope="module")
def pool(arrays, tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("pool"), arrays[1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("wanted", [("image",), ("text",), ("image", "text")])
@pytest.mark.parametrize("near_duplicate", [None, 0.9])
def test_recall_is_one_against_numpy(pool, arrays, wanted, near_duplicate, engine) -> None:
    queries, features = arrays
    oracle_QN = np.mean([queries[kind] @ features[kind].T for kind in wanted], axis=0)
    if near_duplicate is not None:
        oracle_QN[queries["image"] @ features["image"].T > near_duplicate] = -np.inf
    expected = np.argsort(-oracle_QN, axis=1, kind="stable")[:, :10]
    tensors = {kind: torch.from_numpy(array) for kind, array in queries.items()}
    scores, rows = engine(pool, Queries(tensors, wanted, near_duplicate), 10)
    found = np.take_along_axis(oracle_QN, rows.numpy(), axis=1)
    assert np.allclose(scores.numpy(), found, atol=1e-6)
    assert all(set(a) == set(b) for a, b in zip(expected.tolist(), rows.tolist(), strict=True))
    assert ((scores[:, 1:] - scores[:, :-1]) <= 0).all()


@pytest.mark.parametrize("rows", [5, 64, 700, 1000])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_the_quick_top_k_is_the_top_k(rows, k) -> None:
    scores = torch.randn(9, rows, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(_top(scores, k)[0], scores.topk(k, dim=1).values)
    assert torch.equal(scores.gather(1, _top(scores, k)[1]), _top(scores, k)[0])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A pool of 30 pairs whose first six images are the fine-tune images."""
    folder = tmp_path_factory.mktemp("world")
    model = tiny("clip")
    source = write_parquet(folder / "pairs.parquet", 0, 30)
    return model, embed_pool(model, [source], folder / "pool", part_rows=11), picture_set(folder / "images")


def test_an_image_finds_itself_unless_near_duplicates_are_left_out(world, tmp_path) -> None:
    model, pool, images = world
    anchors = retrieve(model, pool, images, tmp_path / "a.parquet", k=2, near_duplicate=None)
    assert anchors.keys == images.keys
    assert [anchors.of(key)[0].text for key in images.keys] == [f"image number {n}" for n in range(6)]
    assert all(pair.similarity == pytest.approx(1, abs=1e-5) for pair in (anchors.of(key)[0] for key in images.keys))
    assert anchors.about["pool"] == pool.hash
    assert (anchors.about["k"], anchors.about["query"], anchors.about["search"]) == (2, "image", "exact")
    filtered = retrieve(model, pool, images, tmp_path / "b.parquet", k=1, near_duplicate=0.99999)
    for key in filtered.keys:
        assert filtered.of(key)[0].text != f"image number {key.removesuffix('.png')}"


def test_anchors_of_other_images_under_the_same_names_are_refused(world, tmp_path) -> None:
    model, pool, _ = world
    images = picture_set(tmp_path / "images")
    anchors = retrieve(model, pool, images, tmp_path / "a.parquet", near_duplicate=None)
    assert len(anchors.only_for(images)) == 6
    control = random_like(anchors, pool, tmp_path / "random.parquet")
    (tmp_path / "images" / images.keys[2]).write_bytes(images.store.read(images.keys[3]))
    for made in (anchors, control):
        with pytest.raises(DataError, match=rf"was made for other images .*: 1 of 6 .* instance {images.keys[2]}"):
            made.only_for(images)


@pytest.mark.parametrize("query", ["text", "both"])
def test_queries_by_caption(world, tmp_path, query) -> None:
    model, pool, images = world
    captions = Captions({key: f"image number {20 + n}" for n, key in enumerate(images.keys)})
    anchors = retrieve(
        model, pool, images, tmp_path / "a.parquet", query=query, captions=captions, near_duplicate=None
    )  # fmt: skip
    if query == "text":
        assert [anchors.of(key)[0].text for key in images.keys] == [f"image number {20 + n}" for n in range(6)]
    again = retrieve(
        model, pool, images, tmp_path / "b.parquet", query=query, captions=captions, near_duplicate=None
    )  # fmt: skip
    assert again.path.read_bytes() == anchors.path.read_bytes()


def test_the_random_control_keeps_amount_and_repeats(world, tmp_path) -> None:
    model, pool, images = world
    anchors = retrieve(model, pool, images, tmp_path / "a.parquet", k=4, near_duplicate=None)
    control = random_like(anchors, pool, tmp_path / "random.parquet", seed=3)
    assert (len(control), len(control.distinct)) == (len(anchors), len(anchors.distinct))
    assert control.keys == anchors.keys
    assert math.isnan(control[0].similarity)
    assert control.about["query"] == "random"
    assert random_like(anchors, pool, tmp_path / "again.parquet", seed=3).path.read_bytes() == control.path.read_bytes()
    other = random_like(anchors, pool, tmp_path / "other.parquet", seed=4)
    assert other.path.read_bytes() != control.path.read_bytes()


def test_mistakes_are_one_line(world, tmp_path, monkeypatch) -> None:
    model, pool, images = world
    out = tmp_path / "a.parquet"
    with pytest.raises(UsageError, match="k must be between 1 and the 30 pairs"):
        retrieve(model, pool, images, out, k=31)
    with pytest.raises(UsageError, match="a query by text needs captions"):
        retrieve(model, pool, images, out, query="text")
    with pytest.raises(DataError, match="have no caption"):
        retrieve(model, pool, images, out, query="both", captions=Captions({"other": "text"}))
    with pytest.raises(DataError, match="was embedded with other weights"):
        retrieve(tiny("clip", seed=1), pool, images, out)
    with pytest.raises(DataError, match="every pair of the pool is a near-duplicate"):
        retrieve(model, pool, images, out, near_duplicate=-1.0)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(DataError, match=r"faiss is not installed: pip install faiss-cpu, or .* --search exact"):
        retrieve(model, pool, images, out, search="faiss")
    assert not out.exists()
