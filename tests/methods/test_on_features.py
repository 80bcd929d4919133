"""Methods on features of the frozen model: LP++, CLAP, ZS-LP and CLIP-Adapter, by formulas and in their limits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from head_world import clusters, logits, task
from method_world import NAMES, attached, filled, make_batch, terms
from steadyclip.core.errors import UsageError
from steadyclip.heads import BlendedHead, Head
from steadyclip.methods import get_method
from steadyclip.models.testing import tiny
from steadyclip.objectives import Features, Image
from steadyclip.training.step import Step

FIVE = list("abcde")
TEXT_CD = torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
UNIT_CD = F.normalize(TEXT_CD, dim=-1)


def blended(train, val=None, **knobs) -> tuple[Head, dict]:
    model = tiny("clip")
    head = BlendedHead(**knobs).build(model, FIVE)
    head.weight.data = head.weight.data[:, :24]
    head.text_CD = head.text_CD[:, :24]
    return head, head.solve(task(train, val, TEXT_CD), 0)


class TestLPPlusPlus:
    @pytest.mark.parametrize("accumulated", [False, True])
    def test_it_is_descent_on_all_images(self, accumulated: bool) -> None:
        x, labels = clusters(1, per_class=3)
        head, found = blended((x, labels), iterations=25, accumulated=accumulated)
        assert found == {"iteration": 25, "validation": 0.0}
        N, one_hot, like = len(x), F.one_hot(labels, 5).float(), x @ UNIT_CD.T
        w = torch.stack([x[labels == k].sum(0) for k in range(5)])
        a = torch.full((5,), 250 * float(torch.stack([like[labels == k, k].mean() for k in range(5)]).mean()))
        b, vw, vb, past = torch.zeros(5), 0, 0, torch.zeros(5)
        rate, alpha_rate = 4 * N / torch.linalg.eigvalsh(x.T @ x)[-1], N / (4 * like.square().sum(0).max())
        for step in range(1, 26):
            error = ((x @ (w + a[:, None] * UNIT_CD).T + b).softmax(-1) - one_hot) / N
            own = (error * like).sum(0)
            past = past + own
            vw, vb = 0.9 * vw + error.T @ x, 0.9 * vb + error.sum(0)
            w, b = w - rate * vw, b - rate * vb
            if step % 10 == 0:
                a = a - alpha_rate * (past if accumulated else own)
        torch.testing.assert_close(head.weight.data, w, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(head.bias.data, b, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(head.alpha.data, a, rtol=1e-4, atol=1e-3)

    def test_alpha_moves_after_the_tenth_step_and_adds_up_if_asked(self) -> None:
        train = clusters(1, per_class=3)
        alphas = {
            (n, more): blended(train, iterations=n, accumulated=more)[0].alpha.data
            for n in (0, 9, 10, 19) for more in (False, True)
        }  # fmt: skip
        for more in (False, True):
            assert torch.equal(alphas[0, more], alphas[9, more])
            assert not torch.equal(alphas[9, more], alphas[10, more])
            assert torch.equal(alphas[10, more], alphas[19, more])
        assert (alphas[10, True] - alphas[10, False]).abs().max() > 1e-2

    def test_of_equal_iterations_the_last_is_kept(self) -> None:
        train = clusters(1, noise=0.05)
        head, found = blended(train, clusters(2, noise=0.05), iterations=15)
        assert found == {"iteration": 15, "validation": 1.0}
        last, _ = blended(train, iterations=15)
        assert torch.equal(head.weight, last.weight)

    def test_a_worse_iteration_is_not_kept(self) -> None:
        train, val = clusters(1, noise=2.0, per_class=2), clusters(2, noise=1.0)
        head, found = blended(train, val, iterations=40)
        assert 0 < found["iteration"] < 40  # else the test could not fail
        torch.testing.assert_close(head.weight, blended(train, iterations=found["iteration"])[0].weight)
        last = blended(train, iterations=40)[0]
        right = (logits(tiny("clip"), last, val[0], FIVE).argmax(1) == val[1]).double().mean()
        assert right < found["validation"]

    def test_in_its_limits_it_is_zero_shot_or_a_linear_probe(self) -> None:
        head, _ = blended(clusters(1), iterations=12)
        x, model = clusters(3)[0], tiny("clip")
        trained = head.weight.data.clone(), head.alpha.data.clone()
        head.weight.data.zero_()
        head.bias.data.zero_()
        head.alpha.data.fill_(7.0)
        torch.testing.assert_close(logits(model, head, x, FIVE), 7 * x @ UNIT_CD.T)
        head.weight.data, head.alpha.data = trained[0], torch.zeros(5)
        head.bias.data.fill_(0.5)
        torch.testing.assert_close(logits(model, head, x, FIVE), x @ trained[0].T + 0.5)
        head.alpha.data = trained[1]
        rows, bias = head.rows(Features(model, head, frozenset(), FIVE, ()))
        torch.testing.assert_close(rows.detach(), trained[0] + trained[1][:, None] * UNIT_CD)
        torch.testing.assert_close(bias.detach(), torch.full((5,), 0.5))

    def test_with_orthonormal_images_a_step_is_four_times_their_number(self) -> None:
        x, labels = torch.eye(24)[:10], torch.arange(10) % 5
        start, step = (blended((x, labels), iterations=n)[0] for n in (0, 1))
        torch.testing.assert_close(start.weight.data, torch.stack([x[k] + x[k + 5] for k in range(5)]))
        assert not start.bias.any()
        error = (x @ (start.weight + start.alpha[:, None] * UNIT_CD).T).softmax(-1) - F.one_hot(labels, 5)
        torch.testing.assert_close(step.weight.data, (start.weight - 4 * 10 * (error / 10).T @ x).detach())

    def test_its_length_is_a_number_of_steps(self) -> None:
        with pytest.raises(UsageError, match="knob iterations=-1 of 'blended_head' must be 0 or more"):
            BlendedHead(iterations=-1)


def drawn(name: str, **knobs):
    """A method whose rows are drawn, and which classes are held by how much."""
    method = get_method(name, knobs)
    model, generator = attached(method), torch.Generator().manual_seed(0)
    for tensor in (model.head.start_CD, model.head.weight.data, model.head.share_C):
        tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return method, model


def head_gradient(name: str, **knobs) -> Tensor:
    method, model = drawn(name, **knobs)
    Step(method, model, NAMES, ("a photo of a {}.",)).gradients(make_batch(), seed=0)
    return model.head.weight.grad


def test_clap_is_zs_lp_with_a_penalty() -> None:
    plain = head_gradient("zs-lp")
    torch.testing.assert_close(head_gradient("clap", w=0), plain)
    assert (head_gradient("clap") - plain).abs().max() > 1e-3
    method, model = drawn("clap", w=3.0)
    found = terms(method, model, make_batch())
    head = model.head
    expected = (
        3.0
        * torch.stack(
            [head.share_C[k] * (head.weight[k] - head.start_CD[k]).square().sum() for k in range(len(NAMES))]
        ).mean()
    )
    torch.testing.assert_close(found["penalty"], expected.detach())
    gradient = plain + 3.0 * 2 * head.share_C[:, None] * (head.weight - head.start_CD) / len(NAMES)
    torch.testing.assert_close(head_gradient("clap", w=3.0), gradient.detach(), rtol=1e-4, atol=1e-5)


def test_zs_lp_knows_no_lengths_of_its_rows_but_the_penalty_does() -> None:
    method, model = drawn("clap")
    f = filled(method, model, make_batch())
    before = {name: value.detach() for name, value in f.outputs(Image()).items()}
    model.head.weight.data *= torch.tensor([[2.0], [3.0], [0.5], [10.0]])
    after = filled(method, model, make_batch()).outputs(Image())
    torch.testing.assert_close(after["logits"].detach(), before["logits"])
    assert (after["penalty"] - before["penalty"]).abs() > 0.1
    unit = F.normalize(model.head.weight.detach(), dim=-1)
    torch.testing.assert_close(before["logits"], (f.scale(Image()) * f[Image()] @ unit.T).detach())


def test_cross_modal_does_know_them() -> None:
    method, model = drawn("cross-modal")
    before = filled(method, model, make_batch()).logits().detach()
    model.head.weight.data *= 2
    torch.testing.assert_close(filled(method, model, make_batch()).logits().detach(), 2 * before)


def test_the_net_of_clip_adapter_is_a_quarter_as_wide() -> None:
    model = attached(get_method("clip-adapter"))
    D = model.embed_dim
    assert model.head.down.weight.shape == (D // 4, D)
    assert sum(p.numel() for p in model.head.parameters()) == 2 * D * (D // 4)
