"""LoRA against its formula, one token at a time, and in numbers."""

import torch
from torch import nn

from steadyclip.adapters import LowRank, LowRankLayer
from steadyclip.models.testing import tiny


def test_equals_the_formula_token_by_token() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    adapter = LowRankLayer(linear, LowRank(rank=2, alpha=1.0, dropout=0.25)).eval()
    nn.init.normal_(adapter.B)
    x_BND = torch.randn(2, 3, 6)
    plain_BND = linear(x_BND)
    adapter.install()
    got_BND = linear(x_BND)
    for b in range(2):
        for n in range(3):
            update = sum(adapter.B[:, r] * (adapter.A[r] @ x_BND[b, n]) for r in range(2)) * (1.0 / 2)
            torch.testing.assert_close(got_BND[b, n], plain_BND[b, n] + update)


def test_dropout_acts_on_the_update_only_and_keeps_its_mean() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 8)
    adapter = LowRankLayer(linear, LowRank(rank=8, alpha=8.0, dropout=0.25))
    x_BD = torch.randn(1, 8)
    plain_BD = linear(x_BD)
    adapter.install()
    adapter.train()
    assert torch.equal(linear(x_BD), plain_BD)  # B is zero: dropout cannot show
    nn.init.normal_(adapter.B)
    mean_BD = torch.stack([linear(x_BD) for _ in range(20_000)]).mean(0)
    adapter.eval()
    torch.testing.assert_close(mean_BD, linear(x_BD), atol=0.15, rtol=0.0)
    assert not torch.allclose(linear(x_BD), plain_BD, atol=0.5)


@torch.no_grad()
def test_without_its_factor_it_is_the_frozen_model() -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    plain = tiny("clip")
    for alpha in (0.0, 1.0):
        model = tiny("clip")
        LowRank(alpha=alpha).attach(model)
        model.eval()
        for name, parameter in model.adapters.named_parameters():
            if name.endswith("B"):
                nn.init.normal_(parameter)
        same = [
            torch.equal(model.encode_image(pixels), plain.encode_image(pixels)),
            torch.equal(model.encode_text(["a cat"]), plain.encode_text(["a cat"])),
        ]
        assert same == [alpha == 0, alpha == 0]


def test_parameter_count_is_that_of_the_published_placement() -> None:
    model = tiny("clip")
    LowRank().attach(model)
    blocks = [b for tower in (model.image_tower, model.text_tower) for b in tower.blocks]
    expected = sum(3 * 2 * (b.q.in_features + b.q.out_features) for b in blocks)
    assert sum(p.numel() for p in model.adapters.parameters()) == expected
    assert len(model.adapters) == 3 * len(blocks)
