import dataclasses
import math

import pytest
import torch
from torch import nn

from steadyclip.core.errors import UsageError
from steadyclip.methods.recipe import Recipe
from steadyclip.training.config import check_recipe
from steadyclip.training.schedule import learning_rate, make_optimizer


def test_cosine_is_torchs() -> None:
    recipe = Recipe(learning_rate=0.3, steps=20)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    for step in range(20):
        assert learning_rate(recipe, step, 20) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()


def test_warm_up_rises_to_the_peak_and_the_cosine_starts_there() -> None:
    recipe = Recipe(learning_rate=1.0, steps=10, warmup_steps=4)
    rates = [learning_rate(recipe, step, 10) for step in range(10)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 5 / 6)))
    constant = dataclasses.replace(recipe, schedule="constant")
    assert [learning_rate(constant, step, 10) for step in range(3, 10)] == [1.0] * 7


def test_a_warm_up_as_long_as_the_training_is_all_warm_up() -> None:
    recipe = Recipe(learning_rate=1.0, steps=4, warmup_steps=4)
    assert [learning_rate(recipe, step, 4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("rule", ["adamw", "sgd"])
def test_weight_decay_spares_gains_biases_and_scalars(rule) -> None:
    matrix, vector, scalar = (nn.Parameter(torch.ones(shape)) for shape in [(2, 3), (3,), ()])
    recipe = Recipe(optimizer=rule, learning_rate=0.1, weight_decay=0.5, steps=1)
    optimizer = make_optimizer(recipe, [matrix, vector, scalar])
    for parameter in (matrix, vector, scalar):
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(matrix, torch.tensor(0.95))
    assert (vector == 1).all()
    assert scalar == 1


def test_adamw_is_right_where_gradient_and_weight_lie_differently_in_memory() -> None:
    """As those of a convolution do. torch's fused AdamW is not, on a processor."""
    torch.manual_seed(0)
    weight, gradient = torch.randn(8, 3, 4, 4), torch.randn(8, 3, 4, 4)
    stepped = []
    for layout in (torch.contiguous_format, torch.channels_last):
        parameter = nn.Parameter(weight.clone())
        optimizer = make_optimizer(Recipe(steps=1, learning_rate=0.1), [parameter])
        parameter.grad = gradient.contiguous(memory_format=layout)
        optimizer.step()
        stepped.append(parameter.detach())
    assert torch.equal(*stepped)


def test_adamw_takes_its_betas_and_sgd_its_momentum() -> None:
    parameter = [nn.Parameter(torch.zeros(2, 2))]
    assert make_optimizer(Recipe(steps=1, momentum=0.8, beta2=0.95), parameter).param_groups[0]["betas"] == (0.8, 0.95)
    assert make_optimizer(Recipe(steps=1, optimizer="sgd", momentum=0.7), parameter).param_groups[0]["momentum"] == 0.7


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("learning_rate", -1.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("weight_decay", -0.1),
        ("warmup_steps", -1),
        ("clip_norm", 0.0),
        ("optimizer", "lion"),
        ("schedule", "linear"),
    ],
)
def test_a_senseless_field_is_named(field, value) -> None:
    recipe = dataclasses.replace(Recipe(steps=5), **{field: value})
    with pytest.raises(UsageError, match=f"^{field}="):
        check_recipe(recipe)
