"""Adaptation by token rank against explicit loops over tokens, heads and channels, and the facts that it promises."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from steadyclip.adapters import Bottleneck, TokenRank, TokenRankBlock, TokenTrace, watch_tokens
from steadyclip.adapters.token_rank import group_ranks
from steadyclip.models import DualEncoder, Layout
from steadyclip.models.testing import installed_families, tiny

TEXTS = ["a cat", "an astronaut on the moon", "Dog"]
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
RANKS = (6, 4, 1)


def adapted(family: str = "clip", **options) -> DualEncoder:
    """A tiny model with adapters whose every weight is random, as after a training."""
    model = tiny(family)
    torch.manual_seed(0)
    TokenRank(**{"ranks": RANKS, **options}).attach(model)
    for parameter in model.adapters.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def run(model: DualEncoder) -> list[TokenTrace]:
    with watch_tokens(model) as traces:
        model.encode_image(PIXELS)
        model.encode_text(TEXTS)
    return traces


# ---- explicit loops


def naive_softmax(values: list[float]) -> list[float]:
    top = max(values)
    powers = [math.exp(v - top) for v in values]
    return [p / sum(powers) for p in powers]


def naive_row(query: Tensor, k_ND: Tensor, visible: list[int], heads: int) -> list[float]:
    """Attention of one query over the visible tokens, mean over heads; 0 for the others."""
    width = len(query) // heads
    row = [0.0] * len(k_ND)
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        weights = naive_softmax([float(query[part] @ k_ND[n, part]) / math.sqrt(width) for n in visible])
        for n, weight in zip(visible, weights, strict=True):
            row[n] += weight / heads
    return row


def naive_scores(score: str, q_ND: Tensor, k_ND: Tensor, valid: list[int], summary: int | None, causal, heads):
    if score == "received":
        rows = [naive_row(q_ND[m], k_ND, [n for n in valid if n <= m or not causal], heads) for m in valid]
        return [sum(row[n] for row in rows) / len(valid) for n in range(len(k_ND))]
    query = sum(q_ND[n] for n in valid) / len(valid) if summary is None else q_ND[summary]
    return naive_row(query, k_ND, valid, heads)


def naive_ranks(scores: list[float], valid: list[int], summary: int | None, ranks, shares) -> list[int]:
    order = sorted(valid, key=lambda n: (n != summary, -scores[n], n))
    result = [0] * len(scores)
    for place, n in enumerate(order):
        group, total = 0, shares[0]
        while Fraction(place, len(order)) >= total and group < len(ranks) - 1:
            group += 1
            total += shares[group]
        result[n] = ranks[group]
    return result


def naive_gate(x_ND: Tensor, scores: list[float]) -> list[float]:
    width = x_ND.shape[1]
    u = [sum(scores[n] * abs(float(x_ND[n, d])) for n in range(len(scores))) for d in range(width)]
    mean = sum(u) / width
    std = math.sqrt(sum((v - mean) ** 2 for v in u) / width + 1e-5)
    return [2 / (1 + math.exp(-(v - mean) / std)) for v in u]


@pytest.mark.parametrize("family", installed_families())
@pytest.mark.parametrize("score", ["summary", "received"])
@torch.no_grad()
def test_equals_loops_over_tokens(family: str, score: str) -> None:
    model = adapted(family, score=score, shares=(0.25, 0.25, 0.5), first_block=2)
    shares = (Fraction(1, 4), Fraction(1, 4), Fraction(1, 2))
    for tower in (model.image_tower, model.text_tower):
        block, adapter = tower.blocks[1], model.adapters[f"{tower.name}_1_mlp"]
        assert isinstance(adapter, TokenRankBlock)
        seen: dict[str, Tensor] = {}
        layouts: list[Layout] = []

        def see_x(_, args, output, seen=seen, layouts=layouts, tower=tower) -> None:
            seen["x"], seen["sum"] = args[0], output
            layouts.append(tower.layout(args[0].shape[1]))

        handles = [
            block.q.register_forward_hook(lambda _, __, q, seen=seen: seen.update(q=q)),
            block.k.register_forward_hook(lambda _, __, k, seen=seen: seen.update(k=k)),
            block.mlp.register_forward_hook(see_x),
        ]
        with watch_tokens(model) as traces:
            model.encode_image(PIXELS) if tower.name == "image" else model.encode_text(TEXTS)
        for handle in handles:
            handle.remove()
        adapter.enabled = False
        plain_BND = block.mlp(seen["x"])
        (trace,), layout = traces, layouts[0]
        assert (trace.tower, trace.block) == (tower.name, 1)
        for b in range(len(trace.scores_BN)):
            valid = [n for n in range(trace.scores_BN.shape[1]) if layout.valid_BN[b, n]]
            summary = None if layout.summary_B is None else int(layout.summary_B[b])
            scores = naive_scores(score, seen["q"][b], seen["k"][b], valid, summary, layout.causal, block.num_heads)
            torch.testing.assert_close(trace.scores_BN[b], torch.tensor(scores), atol=1e-6, rtol=1e-4)
            ranks = naive_ranks(trace.scores_BN[b].tolist(), valid, summary, RANKS, shares)
            assert trace.ranks_BN[b].tolist() == ranks
            gate = naive_gate(seen["x"][b], scores)
            for n in range(len(ranks)):
                x_D = seen["x"][b, n]
                hidden = [max(0.0, float(adapter.down[r] @ x_D + adapter.bias[r])) for r in range(ranks[n])]
                delta = [
                    gate[d] * sum(h * float(adapter.up[d, r]) for r, h in enumerate(hidden)) for d in range(len(x_D))
                ]
                torch.testing.assert_close(trace.delta_BND[b, n], torch.tensor(delta), atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(seen["sum"], plain_BND + trace.delta_BND)


# ---- groups


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_groups_equal_loops_for_any_lengths_shares_and_ties(data: st.DataObject) -> None:
    length, groups = data.draw(st.integers(1, 14)), data.draw(st.integers(1, 4))
    parts = data.draw(st.lists(st.integers(1, 5), min_size=groups, max_size=groups))
    shares = [Fraction(part, sum(parts)) for part in parts]
    scores = data.draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=length, max_size=length))
    valid = data.draw(st.sets(st.integers(0, length - 1), min_size=1).map(sorted))
    summary = data.draw(st.sampled_from([None, *valid]))
    ranks = list(range(groups, 0, -1))
    mask = torch.zeros(1, length, dtype=torch.bool)
    mask[0, valid] = True
    layout = Layout(mask, None if summary is None else torch.tensor([summary]), causal=False)
    got = group_ranks(torch.tensor([scores]), layout, ranks, [float(share) for share in shares])
    assert got[0].tolist() == naive_ranks(scores, valid, summary, ranks, shares)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, [32]), (2, [16, 32]), (3, [8, 16, 32]), (4, [8, 16, 32, 32]), (5, [8, 16, 16, 32, 32])]
)
def test_short_texts(length: int, expected: list[int]) -> None:
    layout = Layout(torch.ones(1, length, dtype=torch.bool), torch.tensor([length - 1]), causal=True)
    scores_BN = torch.linspace(0.1, 0.9, length)[None].clone()
    scores_BN[0, -1] = 0.0  # the summary stands first whatever its score
    assert group_ranks(scores_BN, layout, (32, 16, 8), (1 / 3,) * 3)[0].tolist() == expected


def test_a_third_of_the_tokens_is_in_each_group() -> None:
    for trace in run(adapted()):
        for ranks_N in trace.ranks_BN:
            counts = [int((ranks_N == rank).sum()) for rank in RANKS]
            assert max(counts) - min(counts) <= 1
            assert sum(counts) == int((ranks_N > 0).sum())


# ---- facts


def test_with_equal_ranks_and_no_gate_it_is_a_plain_bottleneck() -> None:
    ours, plain = adapted(ranks=(5, 5, 5), channel="off"), tiny("clip")
    Bottleneck(rank=5).attach(plain)
    plain.load_trained_state(ours.trained_state())
    with torch.no_grad():
        assert torch.equal(ours.encode_image(PIXELS), plain.encode_image(PIXELS))
        assert torch.equal(ours.encode_text(TEXTS), plain.encode_text(TEXTS))


def test_the_gradient_of_the_columns_beyond_a_tokens_rank_is_zero() -> None:
    model = adapted(activation="gelu", first_block=2)
    (trace,) = [trace for trace in run(model) if trace.tower == "image"]
    adapter = model.adapters["image_1_mlp"]
    assert isinstance(adapter, TokenRankBlock)
    for n in range(trace.delta_BND.shape[1]):
        rank = int(trace.ranks_BN[0, n])
        parameters = (adapter.up, adapter.down, adapter.bias)
        up, down, bias = torch.autograd.grad(trace.delta_BND[0, n].sum(), parameters, retain_graph=True)
        for grad_R in (up.abs().sum(0), down.abs().sum(1), bias.abs()):
            assert (grad_R[:rank] > 0).all()
            assert (grad_R[rank:] == 0).all()


@pytest.mark.parametrize("score", ["summary", "received", "learned"])
def test_permuting_patches_permutes_what_is_added(score: str) -> None:
    model = adapted(score=score)
    tower, adapter = model.image_tower, model.adapters["image_0_mlp"]
    assert isinstance(adapter, TokenRankBlock)
    x_BND = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(3))
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(16)])
    deltas = []
    for x in (x_BND, x_BND[:, order]):
        layout = Layout(torch.ones(2, 17, dtype=torch.bool), torch.zeros(2, dtype=torch.long), causal=False)
        tower.layouts = (layout,)
        with torch.no_grad():
            tower.blocks[0].q(x), tower.blocks[0].k(x)
            deltas.append(adapter.delta(x))
    torch.testing.assert_close(deltas[0][:, order], deltas[1], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"score": "received"}, {"score": "learned"}, {"assignment": "random"}], ids=str
)
@pytest.mark.parametrize("family", installed_families())
def test_padding_and_batch_change_nothing(family: str, options: dict) -> None:
    model = adapted(family, **options)
    with torch.no_grad(), watch_tokens(model) as traces:
        together = model.encode_text(TEXTS)
        for text, feature in zip(TEXTS, together, strict=True):
            torch.testing.assert_close(model.encode_text([text])[0], feature, atol=1e-5, rtol=0)
        if family in ("clip", "open_clip"):
            ids = model.tokenize(TEXTS)["input_ids"]
            # whatever follows the end of a text; the end itself is the highest id
            longer = F.pad(ids, (0, 32 - ids.shape[1])) if family == "clip" else ids.where(ids > 0, 7)
            torch.testing.assert_close(model.encode_text({"input_ids": longer}), together, atol=1e-5, rtol=0)
    for trace in traces:
        assert (trace.delta_BND[trace.ranks_BN == 0] == 0).all()
        torch.testing.assert_close(trace.scores_BN.sum(1), torch.ones(len(trace.scores_BN)))


def test_scores_and_groups_carry_no_gradient() -> None:
    model = adapted()
    traces = run(model)
    assert not any(trace.scores_BN.requires_grad for trace in traces)
    assert all(trace.delta_BND.requires_grad for trace in traces)


@pytest.mark.parametrize(
    "options", [{"score": "learned"}, {"score": "learned", "channel": "off"}, {"channel": "squeeze_excite"}], ids=str
)
def test_learned_parts_get_a_gradient(options: dict) -> None:
    model = adapted(**options)
    for name, parameter in model.adapters.named_parameters():
        if "squeeze" in name:
            parameter.data.abs_()  # at this width there are two units, and they must be alive
    sum(trace.delta_BND.square().sum() for trace in run(model)).backward()
    for name, parameter in model.adapters.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_the_learned_gate_starts_at_one() -> None:
    models = [tiny("clip"), tiny("clip")]
    for model, channel in zip(models, ("squeeze_excite", "off"), strict=True):
        torch.manual_seed(0)
        TokenRank(ranks=RANKS, channel=channel).attach(model)
        for adapter in model.adapters.values():
            nn.init.ones_(adapter.up)
            nn.init.ones_(adapter.down)
    with torch.no_grad():
        torch.testing.assert_close(models[0].encode_image(PIXELS), models[1].encode_image(PIXELS))


def test_random_groups_are_new_at_every_step_and_fixed_in_evaluation() -> None:
    model = adapted(assignment="random")
    first, again = ([trace.ranks_BN for trace in run(model)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, trace.ranks_BN) for a, trace in zip(first, run(adapted()), strict=True))
    model.train()
    torch.manual_seed(0)
    steps = [[trace.ranks_BN for trace in run(model)] for _ in range(2)]
    assert any(not torch.equal(a, b) for a, b in zip(*steps, strict=True))
    torch.manual_seed(0)
    assert all(torch.equal(a, trace.ranks_BN) for a, trace in zip(steps[0], run(model), strict=True))


def test_q_and_k_are_projected_once_and_attention_stays_fused() -> None:
    model = adapted()
    assert model.network.config._attn_implementation == "sdpa"
    calls = []
    for block in model.image_tower.blocks:
        for linear in (block.q, block.k):
            linear.register_forward_hook(lambda linear, _, __: calls.append(linear))
    with torch.no_grad():
        model.encode_image(PIXELS)
    assert len(calls) == len(set(calls)) == 4


def test_watching_costs_nothing_when_it_is_over() -> None:
    model = adapted()
    with watch_tokens(model) as outer:
        with watch_tokens(model) as inner:
            model.encode_text(TEXTS)
        assert (len(outer), len(inner)) == (0, 2)
        model.encode_text(TEXTS)
    model.encode_text(TEXTS)
    assert (len(outer), len(inner)) == (2, 2)
    with watch_tokens(model) as traces, model.frozen():
        model.encode_text(TEXTS)
    assert not traces


def test_what_it_emits_is_the_mean_size_of_what_is_added_in_any_parts() -> None:
    model = adapted()
    tokens = model.tokenize(TEXTS)
    with watch_tokens(model) as traces:
        whole = model.run("text", tokens, wanted=("delta",))["delta"]
    parts = [
        model.run("text", {name: x[rows] for name, x in tokens.items()}, wanted=("delta",))["delta"]
        for rows in (slice(0, 1), slice(1, 3))
    ]
    sizes = [t.delta_BND.abs().sum() / ((t.ranks_BN > 0).sum() * t.delta_BND.shape[-1]) for t in traces]
    for total_BK2 in (whole, torch.cat(parts)):
        assert total_BK2.shape == (3, 2, 2)  # both blocks, joined on axis 1
        total_K2 = total_BK2.sum(0)
        size = (total_K2[:, 0] / total_K2[:, 1]).mean()
        torch.testing.assert_close(size, torch.stack(sizes).mean(), atol=1e-6, rtol=1e-5)
    whole.sum().backward()
    assert all(adapter.up.grad is not None for key, adapter in model.adapters.items() if key.startswith("text"))


def test_nothing_is_emitted_or_kept_unasked() -> None:
    model = adapted()
    assert set(model.run("image", PIXELS)) == {"feature"}
    model.run("image", PIXELS, wanted=("delta",))
    for adapter in model.adapters.values():
        assert isinstance(adapter, TokenRankBlock)
        assert (adapter.wanted, adapter._size_B12) == (frozenset(), None)
