"""What is read in a step: canonical states, seeded views, each thing computed once."""

from __future__ import annotations

import pytest
import torch

from method_world import NAMES, TEMPLATES, attached, filled, make_batch
from steadyclip.adapters import LowRank, Weights
from steadyclip.methods import compose
from steadyclip.models.testing import tiny
from steadyclip.objectives import (
    AttentiveCutout,
    Batch,
    Classes,
    Consistency,
    CrossEntropy,
    Cutout,
    DrawnPrompts,
    Features,
    Image,
    OfStream,
    Plain,
    Text,
    TextsOfStream,
)
from steadyclip.objectives.features import seeded


def empty(touched: tuple[str, ...] = (), seed: int = 0, **options) -> Features:
    return Features(tiny("clip"), None, frozenset(touched), NAMES, TEMPLATES, make_batch(), seed=seed, **options)


def test_a_tower_that_nothing_trains_has_one_state() -> None:
    f = empty(("text",))
    for state in ("tuned", "frozen", "average"):
        assert f.canonical(Image(state=state)) == Image(state="frozen")
        assert f.canonical(Text(state=state)) == Text(state=state)
    f.raw[Image(state="frozen")] = torch.ones(6, 24)
    assert f.get(Image()) is f.get(Image(state="frozen"))
    with pytest.raises(KeyError, match="was not declared in reads"):
        f.get(Text())


def test_views_are_values() -> None:
    assert Image(Cutout(0.5)) == Image(Cutout()) != Image(Cutout(0.4))
    assert len({Image(Cutout()), Image(Cutout(0.5)), Image(AttentiveCutout()), Image()}) == 3
    assert (Plain.finite, Cutout.finite, Classes.rows, DrawnPrompts.rows) == (True, False, "class", "image")


def test_pixels_of_a_view_depend_on_its_step_and_on_no_other_view() -> None:
    alone = empty().pixels(Cutout())
    f = empty()
    f.pixels(Cutout(0.25))
    torch.rand(5)
    assert torch.equal(f.pixels(Cutout()), alone)
    assert f.pixels(Cutout()) is f.pixels(Cutout(0.5))
    assert not torch.equal(empty(seed=1).pixels(Cutout()), alone)
    assert torch.equal(empty(words=(1,)).pixels(Cutout()), alone)  # another process, or another part


def test_draws_leave_the_generator_of_the_caller_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with seeded("anything"):
        first = torch.rand(2)
    assert torch.equal(torch.rand(2), expected)
    with seeded("anything"):
        assert torch.equal(torch.rand(2), first)
    with seeded("something else"):
        assert not torch.equal(torch.rand(2), first)


def test_adding_a_term_never_changes_anothers_value() -> None:
    """Views draw for themselves; without dropout nothing else of a pass is drawn."""
    terms, values = CrossEntropy() + CrossEntropy(Image(Cutout())), []
    more = CrossEntropy(Image(Cutout(0.3))) + Consistency(Cutout()) + terms
    for objective in (terms, more):
        method = compose("", adapters=(LowRank(dropout=0.0),), objective=objective)
        f = filled(method, attached(method, std=0.2), make_batch(), seed=4)
        values.append((objective.parts[-1][1](f), f.pixels(Cutout())))
    assert torch.equal(values[0][1], values[1][1])
    torch.testing.assert_close(values[0][0], values[1][0])


def test_what_terms_share_is_computed_once() -> None:
    method = compose("", adapters=(Weights(),), objective=CrossEntropy() + Consistency())
    f = filled(method, attached(method), make_batch())
    assert f.logits() is f.logits(Image())
    assert f[Image()] is f[Image()]
    assert f.cosines(Image(), Text()) is f.cosines(Image(), Text())
    frozen = f.cosines(Image(state="frozen"), Text(state="frozen"))
    assert frozen is not f.cosines(Image(), Text())
    made = []
    assert f.once("mine", lambda: made.append(1) or 5) == f.once("mine", lambda: made.append(1) or 6) == 5
    assert made == [1]


def test_unit_rows_and_raw_rows() -> None:
    f = empty()
    f.raw[Image(state="frozen")] = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(f[Image()], torch.tensor([[0.6, 0.8]]))
    assert f.get(Image()).tolist() == [[3.0, 4.0]]


def test_the_scale_is_the_pretrained_one_where_all_is_frozen() -> None:
    method = compose("", adapters=(Weights(),))
    model = attached(method)
    before = model.logit_scale.item()
    with torch.no_grad():
        model.network.logit_scale.add_(1.0)
    f = Features(model, None, method.touched, NAMES, TEMPLATES)
    image, text = Image(state="frozen"), Text(state="frozen")
    assert f.scale(image, text).item() == pytest.approx(before)
    assert f.scale(image, Text()).item() == pytest.approx(model.logit_scale.item())
    assert f.scale().item() == pytest.approx(model.logit_scale.item())
    one_BD = torch.eye(2, 24)
    f.raw.update({image: one_BD, text: one_BD, Text(): one_BD})
    assert float(f.cosines(image, text)[0, 0]) == pytest.approx(before)
    assert float(f.cosines(image, Text())[0, 0].detach()) == pytest.approx(model.logit_scale.item())


def test_texts_that_depend_on_the_image_have_logits_of_their_own() -> None:
    f = empty(("text",))
    image_BD = torch.randn(6, 24, generator=torch.Generator().manual_seed(0))
    text_BCD = torch.randn(6, 4, 24, generator=torch.Generator().manual_seed(1))
    f.raw.update({Image(state="frozen"): image_BD, Text(): text_BCD})
    scale = float(f.model.logit_scale)
    for b in range(6):
        for c in range(4):
            cosine = torch.cosine_similarity(image_BD[b], text_BCD[b, c], dim=0)
            assert float(f.cosines(Image(), Text())[b, c].detach()) == pytest.approx(scale * float(cosine), abs=1e-4)


def test_texts_of_views() -> None:
    f = empty()
    assert Classes().texts(f, None)[:2] == [["a photo of a cat."], ["a photo of a dog."]]
    assert Classes(templates="all").texts(f, None)[1] == ["a photo of a dog.", "an icon of a dog."]
    assert Classes(templates=("the {}",)).texts(f, None)[2] == ["the sea lion"]
    assert Classes(templates="all").texts(f, "{}.")[3] == ["owl."]  # what follows learned tokens
    assert DrawnPrompts(draw="first").texts(f, "{}.")[:2] == [["cat."], ["dog."]]


def test_streams_have_texts_pixels_and_labels_of_their_own() -> None:
    pixels_BCHW, labels_B = torch.zeros(2, 3, 32, 32), torch.tensor([3, 1])
    stream = {"texts": ("one", "two"), "images_BCHW": pixels_BCHW, "labels_B": labels_B}
    f = empty()
    f.batch = Batch(torch.tensor([0]), streams={"pairs": stream})
    assert TextsOfStream(stream="pairs").texts(f, None) == [["one"], ["two"]]
    assert TextsOfStream(stream="pairs").texts(f, "{}!") == [["one!"], ["two!"]]
    assert f.pixels(OfStream("pairs")) is pixels_BCHW
    assert f.labels(OfStream("pairs")) is labels_B
    assert f.labels(Plain()).tolist() == [0]


def test_the_attentive_cut_is_where_the_frozen_model_sees_the_class() -> None:
    f, view = empty(), AttentiveCutout(0.5)
    patches, text = view.reads
    f.raw[text] = torch.eye(4, 24)
    seen_BYXD = torch.zeros(6, 4, 4, 24)
    for b, label in enumerate(f.batch.labels_B.tolist()):
        seen_BYXD[b, :2, 2:, label] = 1.0  # top right
    f.raw[patches] = seen_BYXD + 0.01
    cut = f.pixels(view) != f.pixels(Plain())
    inside = cut[:, :, :16, 16:].float().mean()
    assert float(inside) > 0.9
    assert float(cut.float().mean()) == pytest.approx(0.25, abs=0.01)
