"""The orthogonal layer against torch's own Cayley map, against loops over dense matrices, and in what it promises."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.adapters import Orthogonal, OrthogonalMaps
from steadyclip.adapters.orthogonal import _inverse, _Turn, cayley
from steadyclip.core.errors import ModelError
from steadyclip.models import DualEncoder, Tower, load
from steadyclip.models.testing import tiny
from steadyclip.testing import train_a_little
from zero_shot import zero_shot_logits

OPTIONS = [
    {"rotate": rotate, "storage": storage, "constraint": constraint, "inverse": inverse}
    for rotate, storage, constraint, inverse in itertools.product(
        ("activations", "weights"), ("full", "packed"), ("cayley", "none"), ("exact", "neumann")
    )
    if constraint == "cayley" or (storage, inverse) == ("full", "exact")
]
IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXTS = ["a photo of a cat", "a dog"]


def spell(options: dict) -> str:
    return "-".join(options.values())


def adapted(seed: int = 3, size: float = 0.1, layers=("fc1", "fc2"), **options) -> tuple[DualEncoder, OrthogonalMaps]:
    """A model with maps away from the identity, and the adapter of its image tower."""
    model = tiny("clip")
    Orthogonal(layers=layers, **options).attach(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    adapter = model.adapters["orthogonal_image"]
    assert isinstance(adapter, OrthogonalMaps)
    return model, adapter


def features(model: DualEncoder) -> Tensor:
    return torch.cat([model.encode_image(IMAGES), model.encode_text(TEXTS)])


# ---- the map


def test_equals_the_cayley_parametrization_of_torch() -> None:
    """torch makes Q = (I + X / 2) (I - X / 2)^-1 of the lower triangle of X; ours is that of S = -X / 2."""
    torch.manual_seed(0)
    linear = nn.Linear(24, 24, bias=False).double()
    torch.nn.utils.parametrizations.orthogonal(linear, orthogonal_map="cayley", use_trivialization=False)
    X = torch.randn(24, 24, dtype=torch.float64).tril(-1)
    with torch.no_grad():
        linear.parametrizations["weight"].original.copy_(X)  # pyright: ignore
    ours = cayley(-(X - X.T)[None] / 2)[0]
    torch.testing.assert_close(ours, linear.weight, atol=1e-12, rtol=0)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("back", [False, True])
def test_equals_its_formula_and_its_gradient_equals_that_of_autograd(back: bool, frozen: bool) -> None:
    """Rows times the map or its transpose; the rows are activations, or weights without a gradient."""
    torch.manual_seed(0)
    P, eye = torch.randn(3, 5, 5, dtype=torch.float64, requires_grad=True), torch.eye(5, dtype=torch.float64)
    S = (P - P.mT) / 2
    rows = torch.randn(2, 4, 15, dtype=torch.float64, requires_grad=not frozen)
    Q = (eye - S) @ torch.linalg.inv(eye + S)
    torch.testing.assert_close(cayley(S), Q.detach())
    turn = _Turn(cayley(S), S)
    got, expected = (turn.back if back else turn)(rows), rows @ torch.block_diag(*(Q.mT if back else Q))
    torch.testing.assert_close(got, expected)
    weight = torch.randn_like(got)
    inputs = [P] if frozen else [P, rows]
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), inputs, retain_graph=True),
        torch.autograd.grad((expected * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("options", OPTIONS, ids=spell)
def test_the_start_is_the_frozen_model_bit_for_bit(options: dict) -> None:
    model = tiny("clip")
    for precision in (torch.float32, torch.bfloat16):
        with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
            before = features(model)
            Orthogonal(layers=("q", "out", "fc1", "fc2"), **options).attach(model)
            assert torch.equal(features(model), before)
            with torch.no_grad():
                assert torch.equal(features(model), before)
            model.detach_all()


@pytest.mark.parametrize("options", OPTIONS, ids=spell)
def test_equals_a_dense_map_of_every_token(options: dict) -> None:
    """y = W A^T x + b with A built entry by entry, one token at a time."""
    model, adapter = adapted(**options)
    linear = model.image_tower.blocks[1].fc2
    x_BND = torch.randn(2, 3, linear.in_features)
    with torch.no_grad():
        A = torch.block_diag(*adapter.maps()["fc2"][1])
        got_BNO = linear(x_BND)
        for b, n in itertools.product(range(2), range(3)):
            expected_O = linear.weight @ (A.T @ x_BND[b, n]) + linear.bias
            torch.testing.assert_close(got_BNO[b, n], expected_O, atol=1e-5, rtol=0)


def test_activations_and_weights_packed_and_full_give_equal_features_and_gradients() -> None:
    found = []
    for rotate, storage in itertools.product(("activations", "weights", "auto"), ("full", "packed")):
        model, _ = adapted(rotate=rotate, storage="full")
        if storage == "packed":
            packed = adapted(rotate=rotate, storage="packed")[0]
            for name, full in model.adapters.named_parameters():
                row, column = torch.triu_indices(full.shape[-1], full.shape[-1], 1)
                with torch.no_grad():
                    S = (full - full.mT) / 2
                    packed.adapters.get_parameter(name).copy_(S[..., row, column])
            model = packed
        out = features(model)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))
        (out * weight).sum().backward()
        parameter = model.adapters.get_parameter("orthogonal_image.P.fc2")
        gradient = parameter.grad
        assert gradient is not None
        if storage == "full":  # the gradient of one number of the triangle is what P's two entries share
            row, column = torch.triu_indices(gradient.shape[-1], gradient.shape[-1], 1)
            gradient = (gradient - gradient.mT)[..., row, column]
        found.append((out.detach(), gradient))
    for out, gradient in found[1:]:
        torch.testing.assert_close(out, found[0][0], atol=1e-6, rtol=0)
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5, rtol=1e-4)


def test_neumann_comes_near_the_solve_with_more_terms() -> None:
    exact, few, many = (
        adapted(size=0.02, inverse=inverse, neumann_terms=terms)[1].maps()["fc1"][0]
        for inverse, terms in (("exact", 1), ("neumann", 2), ("neumann", 8))
    )
    assert (few - exact).abs().max() > 1e-5
    torch.testing.assert_close(many, exact, atol=1e-6, rtol=0)


# ---- what an orthogonal map keeps


@pytest.mark.parametrize("storage", ["full", "packed"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_orthogonal_to_1e5_after_training_and_neurons_keep_lengths_and_angles(storage, precision) -> None:
    from steadyclip.methods import get_method

    model, reference = tiny("clip"), tiny("clip")
    train_a_little(get_method("orthcr", {"storage": storage}), model, steps=10, precision=precision)
    moved = 0.0
    for tower in ("image", "text"):
        adapter = model.adapters[f"orthogonal_{tower}"]
        assert isinstance(adapter, OrthogonalMaps)
        with torch.no_grad():
            for Q_Kcc in itertools.chain(*adapter.maps().values()):
                assert Q_Kcc.dtype == torch.float32
                eye = torch.eye(Q_Kcc.shape[-1])
                assert (Q_Kcc.mT @ Q_Kcc - eye).abs().max() < 1e-5
                moved = max(moved, float((Q_Kcc - eye).abs().max()))
    assert moved > 1e-3
    model.merge_adapters()
    for tower, before in ((model.image_tower, reference.image_tower), (model.text_tower, reference.text_tower)):
        for block, old in zip(tower.blocks, before.blocks, strict=True):
            for after, start in ((block.fc1.weight, old.fc1.weight), (block.fc2.weight, old.fc2.weight)):
                assert not torch.equal(after, start)
                torch.testing.assert_close(
                    torch.linalg.svdvals(after), torch.linalg.svdvals(start), atol=1e-4, rtol=1e-5
                )
                after, start = F.normalize(after, dim=1), F.normalize(start, dim=1)
                torch.testing.assert_close(after @ after.T, start @ start.T, atol=1e-5, rtol=0)


def test_without_the_constraint_they_are_not_kept() -> None:
    model, _ = adapted(constraint="none")
    linear = model.image_tower.blocks[0].fc1
    before = torch.linalg.svdvals(linear.weight)
    model.merge_adapters()
    assert (torch.linalg.svdvals(linear.weight) - before).abs().max() > 0.01


# ---- counts


def test_parameter_count_of_the_paper() -> None:
    """43.45 million for CLIP ViT-B/16, on the meta device: neither weights nor memory are needed."""
    from transformers import CLIPConfig, CLIPModel

    from steadyclip.models.huggingface import HuggingFace

    with torch.device("meta"):
        network = CLIPModel(CLIPConfig(vision_config={"patch_size": 16}, projection_dim=512))
    model = DualEncoder("vit-b-16", network, HuggingFace("clip", None, 77, {}), tiny("clip").preprocess)
    Orthogonal().attach(model)
    assert sum(p.numel() for p in model.adapters.parameters()) == 43_450_368
    model.detach_all()
    Orthogonal(storage="packed").attach(model)
    assert sum(p.numel() for p in model.adapters.parameters()) == 21_686_784


def test_layers_of_one_width_are_solved_in_one_call_for_a_forward_pass(monkeypatch) -> None:
    calls: list[tuple[int, ...]] = []
    inverse = torch.linalg.inv_ex
    monkeypatch.setattr(torch.linalg, "inv_ex", lambda M: (calls.append(tuple(M.shape)), inverse(M))[1])
    model, _ = adapted(layers=("q", "out", "fc1", "fc2"))
    model.encode_image(IMAGES)
    assert sorted(calls) == [(2, 4, 16, 16), (3 * 2, 4, 8, 8)]  # 2 blocks of the tower, K = 4
    model.encode_text(TEXTS)
    assert len(calls) == 4
    with torch.no_grad():
        model.encode_image(IMAGES)
        model.encode_image(IMAGES)  # without gradients they are kept while nothing changes
    assert len(calls) == 6


@pytest.mark.parametrize("size", [1, 64, 65, 130, 257])
@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_an_inverse_by_quarters_is_the_inverse(size: int, scale: float) -> None:
    draw = torch.randn(2, size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    M = torch.eye(size, dtype=torch.float64) + scale * (draw - draw.mT)
    torch.testing.assert_close(_inverse(M), torch.linalg.inv(M), atol=1e-9, rtol=1e-9)


# ---- the maps are never stale


def test_several_backward_passes_and_forward_passes_between() -> None:
    model, _ = adapted()
    for _ in range(3):
        first, second = model.encode_image(IMAGES), model.encode_image(IMAGES.flip(0))
        with torch.no_grad():
            model.encode_image(IMAGES)
        (first.sum() + second.square().sum()).backward()
    one, another = adapted()[0], adapted()[0]
    torch.stack([features(one)[0], features(one)[1]]).sum().backward()
    features(another)[0].sum().backward()
    features(another)[1].sum().backward()
    for a, b in zip(one.adapters.parameters(), another.adapters.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_change_of_the_parameters_is_seen() -> None:
    model, _ = adapted()
    before = features(model)
    with model.frozen():
        frozen = features(model)
    assert torch.equal(features(model), before)
    for parameter in model.adapters.parameters():
        parameter.zero_()
    assert torch.equal(features(model), frozen)
    other, _ = adapted()
    model.load_trained_state(other.trained_state())
    assert torch.equal(features(model), before)


@torch.no_grad()
def test_values_in_the_place_of_the_parameters_are_seen_whatever_their_versions() -> None:
    model, _ = adapted()
    before = features(model)
    other = {name: value.detach().clone() for name, value in adapted(seed=5)[0].named_parameters()}
    for name, value in model.named_parameters():
        for _ in range(value._version - other[name]._version):
            other[name].add_(0)  # the same version as the parameter's
    swapped = F.normalize(model.run("image", IMAGES, values=other)["feature"], dim=-1)
    assert torch.equal(swapped, adapted(seed=5)[0].encode_image(IMAGES))
    assert torch.equal(features(model), before)


def test_copies_are_independent_and_inference_mode_leaves_nothing_behind() -> None:
    model, _ = adapted()
    features(model)  # maps with a graph are kept now
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in twin.adapters.parameters():
            parameter.zero_()
        with model.frozen():
            frozen = features(model)
        assert torch.equal(features(twin), frozen)
        assert not torch.equal(features(model), frozen)
    with torch.inference_mode():
        expected = features(model).clone()
    with torch.no_grad():
        assert torch.equal(features(model), expected)
    features(model).sum().backward()


def test_an_error_inside_the_layer_leaves_the_weights_in_place() -> None:
    model, _ = adapted(rotate="weights")
    linear = model.image_tower.blocks[0].fc1
    with pytest.raises(RuntimeError):
        linear(torch.zeros(2, 3))
    assert linear.weight is dict(linear.named_parameters())["weight"]


# ---- merge, save, wrong use


@pytest.mark.parametrize("options", [{}, {"storage": "packed"}, {"constraint": "none"}], ids=str)
def test_merged_logits_and_plain_transformers(options: dict, tmp_path) -> None:
    from transformers import CLIPModel

    model, _ = adapted(**options)
    with torch.no_grad():
        before = zero_shot_logits(model, model.encode_image(IMAGES), model.encode_text(TEXTS))
        model.merge_adapters()
        model.save(tmp_path)
        assert (
            zero_shot_logits(model, model.encode_image(IMAGES), model.encode_text(TEXTS)) - before
        ).abs().max() < 1e-4
        stock = CLIPModel.from_pretrained(tmp_path)
        image_BD = F.normalize(stock.visual_projection(stock.vision_model(IMAGES).pooler_output), dim=-1)
    torch.testing.assert_close(image_BD, load(tmp_path).encode_image(IMAGES).detach(), atol=1e-6, rtol=0)
    torch.testing.assert_close(image_BD, model.encode_image(IMAGES).detach(), atol=1e-6, rtol=0)


def test_names_on_disk_and_towers() -> None:
    model = tiny("clip")
    Orthogonal("text").attach(model)
    assert {name: tuple(t.shape) for name, t in model.trained_state().items()} == {
        "adapters.orthogonal_text.P.fc1": (2, 4, 8, 8),
        "adapters.orthogonal_text.P.fc2": (2, 4, 16, 16),
    }


def test_blocks_must_divide_the_inputs() -> None:
    with pytest.raises(ModelError, match=r"32 inputs of fc1 in the image tower are no multiple of blocks=5\."):
        Orthogonal(layers=("fc1",), blocks=5).attach(tiny("clip"))
    blocks = tiny("clip").image_tower.blocks
    blocks[1].fc1.in_features = 64
    with pytest.raises(ModelError, match=r"fc1 of the image tower has \[32, 64\] inputs"):
        OrthogonalMaps(Tower("image", blocks, 32, nn.Identity(), nn.Identity()), Orthogonal(layers=("fc1",)))
