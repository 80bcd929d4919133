"""Search: however the pool is cut and the results are merged, the rows of one float64 product, the lower of equals."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from anchor_world import make_pool, unit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steadyclip.anchors import search as module
from steadyclip.anchors.search import Found, Queries, Unit, distinct, merge, search, search_unit, units

QUERY_COUNT, ROWS, WIDTH = 7, 300, 8


@pytest.fixture(scope="module")
def arrays() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """300 pairs, many of them copies of each other, and queries that are some of them."""
    rng = np.random.default_rng(0)
    features = {kind: unit(rng, ROWS, WIDTH) for kind in ("image", "text")}
    for kind in features:
        features[kind][100:140] = features[kind][7]  # more equals than there are candidates
        features[kind][250:255] = features[kind][30]
    queries = {kind: features[kind][[7, 30, 100, 250, 299, 0, 1]].copy() for kind in features}
    queries["text"][4:] = unit(rng, 3, WIDTH)
    return queries, features


def oracle(queries: Queries, features: dict[str, np.ndarray], k: int) -> np.ndarray:
    """Rows by one product in float64; -1 where nothing is left."""
    cosine = {kind: x.double().numpy() @ features[kind].astype(np.float64).T for kind, x in queries.features.items()}
    score = np.round(np.mean([cosine[kind] for kind in queries.wanted], axis=0) / 1e-6)
    if queries.near_duplicate is not None:
        score[cosine["image"] > queries.near_duplicate] = -np.inf
    order = np.argsort(-score, axis=1, kind="stable")[:, :k]
    return np.where(np.isinf(np.take_along_axis(score, order, 1)), -1, order)


def asked(arrays, wanted=("image",), near=None) -> Queries:
    return Queries({kind: torch.from_numpy(x) for kind, x in arrays[0].items()}, wanted, near)


@pytest.mark.parametrize("wanted", [("image",), ("text",), ("image", "text")])
@pytest.mark.parametrize("near", [None, 0.9])
@pytest.mark.parametrize("k", [1, 5, 60, 299])
def test_it_is_one_product(arrays, tmp_path, wanted, near, k) -> None:
    queries = asked(arrays, wanted, near)
    found = search(make_pool(tmp_path / "pool", arrays[1]), queries, k)
    assert np.array_equal(found.rows.numpy(), oracle(queries, arrays[1], k))
    assert found.scores.dtype == torch.float32
    assert torch.equal(torch.isinf(found.scores), found.rows < 0)


@given(
    cuts=st.lists(st.integers(0, ROWS), max_size=6), order=st.randoms(use_true_random=False),
    chunk=st.sampled_from([1, 16, 64, 4096]), block=st.sampled_from([1, 3, 1024]),
)  # fmt: skip
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_into_units_chunks_and_blocks_gives_the_same(
    arrays, tmp_path_factory, monkeypatch, cuts: list[int], order: random.Random, chunk: int, block: int
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(module, "QUERIES", block)
    queries, pool = asked(arrays, near=0.99), whole(tmp_path_factory, arrays)
    parts = [(unit.first, search_unit(unit, queries, 6)) for unit in cut(pool, cuts)]
    order.shuffle(parts)
    assert np.array_equal(merge(parts, 6).rows.numpy(), oracle(queries, arrays[1], 6))


def whole(tmp_path_factory, arrays):
    """A pool with a part for each row, so that it can be cut anywhere."""
    if not hasattr(whole, "pool"):
        whole.pool = make_pool(tmp_path_factory.mktemp("pool") / "pool", arrays[1], parts=ROWS)
    return whole.pool


def cut(pool, cuts: list[int]) -> list[Unit]:
    ends = [0, *sorted(cuts), ROWS]
    return [Unit(pool, tuple(pool.manifest.parts[a:b]), a) for a, b in itertools.pairwise(ends)]


def test_units_are_whole_parts(arrays, tmp_path) -> None:
    pool = make_pool(tmp_path / "pool", arrays[1], parts=10)  # of 30 rows
    assert [(unit.first, len(unit)) for unit in units(pool, 70)] == [(0, 60), (60, 60), (120, 60), (180, 60), (240, 60)]
    assert [len(unit) for unit in units(pool, 1)] == [30] * 10
    assert len(units(pool)) == 1
    assert len({unit.hash for unit in units(pool, 70)}) == 5


def test_copies_are_left_out_across_shards(arrays) -> None:
    _, features = arrays
    queries = asked(arrays)
    rows = oracle(queries, features, 60)
    found = Found(torch.zeros(rows.shape), torch.from_numpy(rows))
    kept = distinct(found, lambda at: features["image"][at], 4, 0.95)
    for of_query, expected in zip(kept.rows.tolist(), rows.tolist(), strict=True):
        by_hand: list[int] = []
        for row in expected:
            if len(by_hand) < 4 and all(features["image"][row] @ features["image"][other] <= 0.95 for other in by_hand):
                by_hand.append(row)
        assert [row for row in of_query if row >= 0] == by_hand


def test_what_decides_is_in_the_hash(arrays) -> None:
    queries, other = asked(arrays), asked(arrays, near=0.9)
    moved = Queries({k: x + (k == "image") * 1e-3 for k, x in queries.features.items()}, ("image",))
    assert len({queries.hash, other.hash, moved.hash, asked(arrays, ("text",)).hash}) == 4
    assert queries.hash == asked(arrays).hash
