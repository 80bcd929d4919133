"""ARF: three terms, what each is made of, and what is refused. Trainings are in tests/training/test_anchored.py."""

import dataclasses
import io

import pytest
import torch
from PIL import Image as PILImage

from method_world import attached
from method_world import terms as terms_of
from steadyclip.anchors import Pair, write_anchors
from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import ImageSet, ImageTask
from steadyclip.methods import get_method
from steadyclip.methods.arf import ARF
from steadyclip.methods.flyp import FLYP
from steadyclip.objectives import Batch, Features, Image, InfoNCE, Text
from steadyclip.training.step import Step

CLASSES, TEMPLATES = ("cat", "dog"), ("a {}.", "art of {}.")
KEYS = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
CAPTIONS = ("a cat asleep", "a cat on a chair", "a dog in snow", "two dogs")


@pytest.fixture(scope="module")
def model():
    return attached(ARF(), names=CLASSES)


def loss(method, model, batch, seed: int = 0) -> dict[str, torch.Tensor]:
    return terms_of(method, model, batch, names=CLASSES, templates=TEMPLATES, seed=seed)


def info_nce(model, image_BD: torch.Tensor, text_BD: torch.Tensor) -> torch.Tensor:
    f = Features(model, None, frozenset(("image", "text")), (), ())
    f.raw.update({Image(): image_BD, Text(): text_BD})
    return InfoNCE(Text())(f)


def streams_of(method, model, task) -> dict:
    return {name: spec.build(model, task) for name, spec in method.streams().items()}


def make_task(captions: tuple[str | None, ...] = CAPTIONS) -> ImageTask:
    images = ImageSet("pets", ("cat", "dog"), ("a {}.",), KEYS, (0, 0, 1, 1), (None,) * 4, captions, store=None)
    return ImageTask("pets", images, images.subset([]), shots=2, seed=1, subset="all")


def write(path, keys=KEYS):
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 36), (200, 30, 30)).save(buffer, "PNG")
    write_anchors(
        path, (Pair(key, 1, 0.5, f"pool-{i}", f"pool text {i}", buffer.getvalue()) for i, key in enumerate(keys)), {}
    )
    return path


def make_batch(seed: int = 0) -> Batch:
    images_BCHW, pair_images_BCHW = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    streams = {
        "captions": {"texts": CAPTIONS},
        "pairs": {"images_BCHW": pair_images_BCHW, "texts": ("a tree", "a car", "a house", "a car")},
    }
    return Batch(torch.tensor([0, 0, 1, 1]), KEYS, images_BCHW, streams=streams)


def test_three_terms_of_infonce_with_their_weights(model) -> None:
    batch = make_batch()
    terms = loss(ARF(l_c=0.5, l_r=2.0), model, batch)
    pairs = batch.streams["pairs"]
    with torch.no_grad():
        image_BD = model.encode_image(batch.images_BCHW)
        expected = {
            "prompts": loss(FLYP(), model, batch)["prompts"],
            "captions": 0.5 * info_nce(model, image_BD, model.encode_text(CAPTIONS)),
            "pairs": 2 * info_nce(model, model.encode_image(pairs["images_BCHW"]), model.encode_text(pairs["texts"])),
        }
    assert terms.keys() == expected.keys()
    for name in terms:
        assert torch.allclose(terms[name], expected[name], atol=1e-5), name


def test_features_of_the_images_are_computed_once(model) -> None:
    """Both kinds of images in one pass, and all distinct texts (2 prompts, 4 captions, 3 of the pairs) in one."""
    step = Step(ARF(), model, CLASSES, TEMPLATES)
    step.gradients(make_batch(), seed=0)
    assert step.planner.calls == {"image tuned calls": 1, "image tuned rows": 8, "text tuned calls": 1,
                                  "text tuned rows": 9}  # fmt: skip


def test_a_caption_is_no_negative_of_a_class_prompt(model) -> None:
    """Other captions change the caption term and no other (but for rounding: all texts share a pass)."""
    batch = make_batch()
    other = dataclasses.replace(batch, streams={**batch.streams, "captions": {"texts": ("x", "y", "z", "w")}})
    before, after = loss(ARF(), model, batch), loss(ARF(), model, other)
    same = [torch.allclose(before[name], after[name], rtol=1e-6) for name in ("prompts", "captions", "pairs")]
    assert same == [True, False, True]


@pytest.mark.parametrize(
    ("knobs", "terms"),
    [
        ({"l_r": 0}, ["prompts", "captions"]),
        ({"l_c": 0}, ["prompts", "pairs"]),
        ({"l_c": 0, "l_r": 0}, ["prompts"]),
        ({"captions": "class"}, ["prompts", "captions", "pairs"]),
    ],
    ids=str,
)
def test_each_control_is_one_switch(model, tmp_path, knobs, terms) -> None:
    method, batch = get_method("arf", {"anchors": write(tmp_path / "a.parquet"), **knobs}), make_batch()
    streams = streams_of(method, model, make_task())
    batch.streams.clear()
    batch.streams.update(
        {
            name: s.collate([s.item(i, None if name == "captions" else _Rng()) for i in range(4)])
            for name, s in streams.items()
        }
    )
    assert list(loss(method, model, batch)) == terms
    assert ("captions" in streams) == ("captions" in terms and "captions" not in knobs)
    assert ("pairs" in streams) == ("pairs" in terms)


class _Rng:
    """Crops nothing away and flips nothing."""

    def uniform(self, low, high):
        return high

    def randint(self, low, high):
        return low

    def random(self):
        return 0.99


def test_class_prompts_as_captions_are_drawn_for_themselves(model) -> None:
    method, drawn = ARF(captions="class"), []
    views = [term.text.view for _, term in method.objective().terms][:2]
    for seed in range(12):
        f = Features(model, None, method.touched, CLASSES, TEMPLATES, make_batch(), seed=seed)
        drawn.append([view.texts(f, None) for view in views])
    assert any(first != second for first, second in drawn)
    assert any(first == second for first, second in drawn)


def test_captions_come_from_the_data_set_or_from_a_file(model, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    own = streams_of(ARF(l_r=0), model, make_task())["captions"]
    assert own.collate([own.item(i, None) for i in (2, 0)]) == {"texts": ("a dog in snow", "a cat asleep")}
    file = tmp_path / "captions.parquet"
    parquet.write_table(pa.table({"path": KEYS[::-1], "caption": ["four", "three", "two", "one"]}), file)
    method = get_method("arf", {"captions": str(file), "l_r": "0"})
    read = streams_of(method, model, make_task((None,) * 4))["captions"]
    assert read.collate([read.item(i, None) for i in range(4)]) == {"texts": ("one", "two", "three", "four")}


def test_pairs_of_other_images_of_the_data_set_are_left_out(model, tmp_path) -> None:
    anchors = write(tmp_path / "a.parquet", keys=("lion/1.png", *KEYS, "lion/2.png"))
    stream = streams_of(ARF(anchors=anchors, l_c=0, pair_crop=1), model, make_task())["pairs"]
    assert [stream.item(i, None)["text"] for i in range(len(stream))] == [f"pool text {i}" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("knobs", "captions", "line"),
    [
        ({}, CAPTIONS, "name a file of `steadyclip anchors retrieve`, as in arf[anchors=FILE]"),
        ({"l_r": 0}, (*CAPTIONS[:3], None), "1 of 4 images of pets have no caption, for instance dog/2.png"),
        ({"l_r": 0, "captions": "none.parquet"}, CAPTIONS, "none.parquet: there is no such file"),
        ({"l_c": 0, "anchors": "few.parquet"}, CAPTIONS, "nothing was retrieved for 2 of 4 training images of pets"),
        ({"l_r": 0, "captions": "few.parquet"}, CAPTIONS, "few.parquet is not a captions file"),
    ],
    ids=["no anchors", "a caption is missing", "no file", "foreign anchors", "foreign captions"],
)
def test_what_is_missing_is_said_in_a_line(model, tmp_path, monkeypatch, knobs, captions, line) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "few.parquet", keys=("lion/1.png", *KEYS[:2]))
    with pytest.raises((UsageError, DataError)) as caught:
        streams_of(get_method("arf", knobs), model, make_task(captions))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_known_by_their_content(tmp_path) -> None:
    first, second = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", keys=KEYS[:1])
    assert ARF(anchors=first).files() == ARF(anchors=first).files()
    assert ARF(anchors=first).files()["anchors"] != ARF(anchors=second).files()["anchors"]
    assert ARF().files() == {}
    with pytest.raises(UsageError, match=r"knob anchors=.* must be a file; there is none of that name"):
        ARF(anchors=tmp_path / "c.parquet").files()
