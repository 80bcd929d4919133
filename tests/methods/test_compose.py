"""Compositions: equal to the classes they mirror, spelled as text and read back, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from method_world import NAMES, TEMPLATES, attached, make_batch
from steadyclip.adapters import Bottleneck, LowRank, Orthogonal, Prompts, TokenRank, Weights
from steadyclip.anchors.streams import CaptionsOfImages, PairsForImages
from steadyclip.core.errors import ModelError, UsageError
from steadyclip.heads import CacheHead, LinearHead, TextHead
from steadyclip.methods import Average, Method, compose, get_method
from steadyclip.methods.compose import Composed, read, spell
from steadyclip.models.testing import tiny
from steadyclip.objectives import (
    L2SP,
    AttentiveCutout,
    Classes,
    Consistency,
    CrossEntropy,
    Cutout,
    Distance,
    DrawnPrompts,
    FeatureL1,
    Image,
    InfoNCE,
    OfStream,
    Text,
    TextsOfStream,
    as_objective,
)
from steadyclip.testing import CHECKS, batch, check_method
from steadyclip.training.step import Step

CAPTIONS, PAIRS = Text(TextsOfStream(stream="captions")), Text(TextsOfStream(stream="pairs"))
MIRRORS = {
    "dra": compose(
        "", adapters=(TokenRank(),), objective=CrossEntropy() + 5 * FeatureL1("image") + 12.5 * FeatureL1("text")
    ),
    "orthcr": compose(
        "",
        adapters=(Orthogonal(),),
        objective=CrossEntropy()
        + 1.5 * Consistency(cross=True)
        + CrossEntropy(Image(Cutout()))
        + 1.0 * Consistency(Cutout(), cross=True),
    ),
    "flyp": compose("", adapters=(Weights(),), objective=InfoNCE(Text(DrawnPrompts()))),
    "lora": compose("", adapters=(LowRank(),)),
    "coop": compose("", adapters=(Prompts(init="a photo of a"),)),
    "arf": compose(
        "",
        adapters=(Weights(),),
        objective=InfoNCE(Text(DrawnPrompts())) + InfoNCE(CAPTIONS) + InfoNCE(PAIRS, Image(OfStream(stream="pairs"))),
        streams={"captions": CaptionsOfImages(), "pairs": PairsForImages()},
    ),
}


def three_steps(method: Method) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Losses of three steps, and what was trained."""
    model = attached(method)
    model.adapters.train()
    step, losses = Step(method, model, NAMES, TEMPLATES), []
    optimizer = torch.optim.SGD(step.trained.values(), lr=0.05)
    for number in range(3):
        optimizer.zero_grad()
        terms = step.gradients(batch(method, model, number), seed=number)
        losses.append({name: float(term) for name, term in terms.items()})
        optimizer.step()
    return losses, model.trained_state()


@pytest.mark.parametrize("name", MIRRORS)
def test_a_composition_is_the_method_that_it_mirrors(name: str) -> None:
    (losses, state), (expected, weights) = three_steps(MIRRORS[name]), three_steps(get_method(name))
    assert losses == expected
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[key], weights[key]) for key in state)


SPELLED = [
    (CrossEntropy(), "CrossEntropy()"),
    (CrossEntropy() + 1.5 * Consistency(cross=True), "CrossEntropy() + 1.5 * Consistency(cross=True)"),
    (InfoNCE(CAPTIONS), "InfoNCE(text=Text(view=TextsOfStream(stream='captions')))"),
    (FeatureL1("image"), "Distance(a=Image(), b=Image(state='frozen'))"),
    (0.25 * L2SP(), "0.25 * L2SP()"),
    (CrossEntropy(Image(AttentiveCutout(0.3))), "CrossEntropy(on=Image(view=AttentiveCutout(side=0.3)))"),
    (LowRank(layers=("q", "v")), "LowRank(layers=('q', 'v'))"),
    (LowRank(layers=("q",)), "LowRank(layers=('q',))"),
    (Prompts(init="a photo of a", meta=4), "Prompts(init='a photo of a', meta=4)"),
    (TextHead(Classes(templates=("a {} (x, )", "{}"))), "TextHead(view=Classes(templates=('a {} (x, )', '{}')))"),
    (TextHead(Classes("raw", ("{}",))), "TextHead(view=Classes(mean='raw', templates=('{}',)))"),
    (CacheHead(alpha=2.0, trained=True), "CacheHead(alpha=2.0, trained=True)"),
    (Average("gaussian", "epoch"), "Average(kind='gaussian', per='epoch')"),
    (PairsForImages(Path("a/b.parquet")), "PairsForImages(anchors=Path('a/b.parquet'))"),
]


@pytest.mark.parametrize(("value", "text"), SPELLED, ids=[text for _, text in SPELLED])
def test_pieces_are_spelled_and_read_back(value, text) -> None:
    assert spell(value) == text
    assert read(text) == value


def test_words_that_people_write_are_read() -> None:
    assert read("CrossEntropy + 0.5*L2SP") == CrossEntropy() + 0.5 * L2SP()
    assert read("FeatureL1('text') * 2") == 2 * FeatureL1("text")
    assert read("[Plain(), -1.5]")[1] == -1.5


def test_weights_are_spelled_so_that_they_come_back_exactly() -> None:
    terms = as_objective(0.1 * CrossEntropy()) * 3
    assert read(spell(terms)) in (terms, terms.parts[0][1])
    assert read(spell(terms)).parts[0][0] == 0.1 * 3


@pytest.mark.parametrize("name", MIRRORS)
def test_a_composition_is_rebuilt_from_its_knobs(name: str) -> None:
    method = MIRRORS[name]
    again = get_method("compose", method.knobs())
    assert isinstance(again, Composed)
    assert (again.adapters, again.head, again.sources) == (method.adapters, method.head, method.sources)
    assert again.objective().terms == method.objective().terms
    assert again.knobs() == method.knobs()


def test_a_composition_without_adapters_is_rebuilt_without_adapters() -> None:
    method = compose("", head=CacheHead(), recipe=None)
    assert get_method("compose", method.knobs()).adapters == ()


def test_a_row_is_typed_as_it_is_shown() -> None:
    method = compose("", adapters=(LowRank(rank=4), Orthogonal(blocks=2)), objective=CrossEntropy() + L2SP())
    assert method.row == ("compose[adapters=LowRank(rank=4) + Orthogonal(blocks=2),objective=CrossEntropy() + L2SP()]")
    assert compose("mine", adapters=(LowRank(),)).row == "mine"
    assert get_method("compose").row == "compose"


def test_pieces_of_several_kinds_keep_the_promises_of_a_method() -> None:
    method = compose(
        "all",
        adapters=(Orthogonal(), LowRank(layers=("q", "v"))),
        objective=CrossEntropy() + 0.2 * InfoNCE(CAPTIONS),
        streams={"captions": CaptionsOfImages()},
    )
    assert len(check_method(method, ["clip"])) == len(CHECKS)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("CrossEntropie()", "there is no piece 'CrossEntropie'. Did you mean 'CrossEntropy'?"),
        ("DRA()", "there is no piece 'DRA'"),
        ("__import__('os')", "there is no piece '__import__'"),
        ("CrossEntropy().reads", "CrossEntropy().reads is no piece"),
        ("Consistency(crossed=True)", "cannot be read as pieces"),
        ("CrossEntropy(", "cannot be read as pieces"),
        ("LowRank()", "'LowRank()' must be an objective."),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_method("compose", {"objective": text})
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_stream_is_read_and_given() -> None:
    with pytest.raises(UsageError, match="a term reads the stream 'captions'; it provides none"):
        compose("", objective=InfoNCE(CAPTIONS))
    with pytest.raises(UsageError, match="a term reads the stream 'captions'; it provides pairs"):
        compose("", objective=InfoNCE(CAPTIONS), streams={"pairs": PairsForImages()})
    with pytest.raises(UsageError, match="provides the stream 'captions', which no term reads"):
        compose("", streams={"captions": CaptionsOfImages()})
    with pytest.raises(UsageError, match="provides the stream 'captions', which no term reads"):
        compose("", objective=CrossEntropy() + 0 * InfoNCE(CAPTIONS), streams={"captions": CaptionsOfImages()})


@pytest.mark.parametrize(
    ("adapters", "line"),
    [
        ((LowRank(), LowRank(rank=4)), "the place 'image_0_q' for an adapter is wanted by two pieces"),
        ((Bottleneck(), TokenRank()), "the place 'image_0_mlp' for an adapter is wanted by two pieces"),
        ((Weights(), Weights("image")), "two pieces want to train the model's own weights"),
        ((Prompts(), Prompts("both")), "two pieces give the text tower learned tokens"),
    ],
    ids=["low rank", "beside the MLP", "weights", "prompts"],
)
def test_two_pieces_at_one_place_are_refused(adapters, line) -> None:
    with pytest.raises((ModelError, UsageError)) as caught:
        compose("", adapters=adapters).attach(tiny("clip"), NAMES)
    assert line in str(caught.value)


def test_a_head_is_a_piece_like_the_others() -> None:
    method = compose("", adapters=(Weights("image"),), head=LinearHead(strength=1.0))
    assert (method.learns, method.own_weights, method.mergeable, method.whole_batch) == (True, False, True, False)
    assert not compose("", head=CacheHead(), recipe=None).mergeable
    assert compose("", adapters=(LowRank(),), objective=InfoNCE(Text(DrawnPrompts()))).whole_batch


def test_steps_without_anything_to_train_are_refused() -> None:
    with pytest.raises(UsageError, match="has nothing to train: give it an adapter, or no recipe"):
        compose("", objective=CrossEntropy())
    assert not compose("", recipe=None).learns


def test_terms_of_one_label_are_numbered() -> None:
    method = compose("", adapters=(LowRank(),), objective=CrossEntropy() + 2 * CrossEntropy() + FeatureL1("image")
                     + Distance(Image(), Image(state="frozen"), "cosine") + 3 * CrossEntropy())  # fmt: skip
    model = attached(method)
    found = Step(method, model, NAMES, TEMPLATES).gradients(make_batch(), seed=0)
    assert list(found) == ["cross_entropy", "cross_entropy_2", "l1_image", "cosine_image", "cross_entropy_3"]
    torch.testing.assert_close(found["cross_entropy_3"], 3 * found["cross_entropy"])
