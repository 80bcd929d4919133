"""ARF: three terms, what each is made of, and what is refused. Trainings are in tests/training/test_anchored.py."""

import dataclasses
import io

import pytest
import torch
from PIL import Image

from steadyclip.anchors import Pair, write_anchors
from steadyclip.core.errors import DataError, UsageError
from steadyclip.data import ImageSet, ImageTask
from steadyclip.methods import Batch, get_method
from steadyclip.methods.arf import ARF
from steadyclip.methods.flyp import FLYP
from steadyclip.models.testing import tiny
from steadyclip.objectives import info_nce

KEYS = ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png")
CAPTIONS = ("a cat asleep", "a cat on a chair", "a dog in snow", "two dogs")


@pytest.fixture(scope="module")
def model():
    model = tiny("clip")
    ARF().adapt(model, ("cat", "dog"))
    return model


def make_task(captions: tuple[str | None, ...] = CAPTIONS) -> ImageTask:
    images = ImageSet("pets", ("cat", "dog"), ("a {}.",), KEYS, (0, 0, 1, 1), (None,) * 4, captions, store=None)
    return ImageTask("pets", images, images.subset([]), shots=2, seed=1, subset="all")


def write(path, keys=KEYS):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 36), (200, 30, 30)).save(buffer, "PNG")
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
    return Batch(
        images_BCHW, torch.tensor([0, 0, 1, 1]), {}, 0, streams, ("cat", "dog"), ("a {}.", "art of {}."), KEYS, seed
    )


def test_three_terms_of_infonce_with_their_weights(model) -> None:
    batch = make_batch()
    terms = ARF(l_c=0.5, l_r=2.0).loss(model, batch)
    image_BD = model.encode_image(batch.images_BCHW)
    pairs = batch.streams["pairs"]
    expected = {
        "prompts": FLYP().loss(model, batch)["prompts"],
        "captions": 0.5 * info_nce(model, image_BD, model.encode_text(CAPTIONS)),
        "pairs": 2 * info_nce(model, model.encode_image(pairs["images_BCHW"]), model.encode_text(pairs["texts"])),
    }
    assert terms.keys() == expected.keys()
    for name in terms:
        assert torch.allclose(terms[name], expected[name], atol=1e-5), name


def test_features_of_the_images_are_computed_once(model) -> None:
    batch, seen, encode = make_batch(), [], model.encode_image
    model.encode_image = lambda images: seen.append(images) or encode(images)
    try:
        ARF().loss(model, batch)
    finally:
        del model.encode_image
    assert [images is batch.images_BCHW for images in seen] == [True, False]


def test_a_caption_is_no_negative_of_a_class_prompt(model) -> None:
    """Other captions change the caption term and no other."""
    batch = make_batch()
    other = dataclasses.replace(batch, streams={**batch.streams, "captions": {"texts": ("x", "y", "z", "w")}})
    before, after = ARF().loss(model, batch), ARF().loss(model, other)
    assert [torch.equal(before[name], after[name]) for name in ("prompts", "captions", "pairs")] == [True, False, True]


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
    streams = method.streams(model, make_task())
    batch.streams.clear()
    batch.streams.update(
        {
            name: s.collate([s.item(i, None if name == "captions" else _Rng()) for i in range(4)])
            for name, s in streams.items()
        }
    )
    assert list(method.loss(model, batch)) == terms
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


def test_class_prompts_as_captions_are_drawn_for_themselves() -> None:
    method = ARF(captions="class")
    drawn = [(method.class_prompts(make_batch(i)), method.class_prompts(make_batch(i), again=True)) for i in range(12)]
    assert any(first != second for first, second in drawn)
    assert any(first == second for first, second in drawn)


def test_captions_come_from_the_data_set_or_from_a_file(model, tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    own = ARF(l_r=0).streams(model, make_task())["captions"]
    assert own.collate([own.item(i, None) for i in (2, 0)]) == {"texts": ("a dog in snow", "a cat asleep")}
    file = tmp_path / "captions.parquet"
    parquet.write_table(pa.table({"path": KEYS[::-1], "caption": ["four", "three", "two", "one"]}), file)
    read = get_method("arf", {"captions": str(file), "l_r": "0"}).streams(model, make_task((None,) * 4))["captions"]
    assert read.collate([read.item(i, None) for i in range(4)]) == {"texts": ("one", "two", "three", "four")}


def test_pairs_of_other_images_of_the_data_set_are_left_out(model, tmp_path) -> None:
    anchors = write(tmp_path / "a.parquet", keys=("lion/1.png", *KEYS, "lion/2.png"))
    stream = ARF(anchors=anchors, l_c=0, pair_crop=1).streams(model, make_task())["pairs"]
    assert [stream.item(i, None)["text"] for i in range(len(stream))] == [f"pool text {i}" for i in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("knobs", "captions", "line"),
    [
        ({}, CAPTIONS, "name a file of `steadyclip anchors retrieve` with --knobs anchors=FILE"),
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
        get_method("arf", knobs).streams(model, make_task(captions))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_are_known_by_their_content(tmp_path) -> None:
    first, second = write(tmp_path / "a.parquet"), write(tmp_path / "b.parquet", keys=KEYS[:1])
    assert ARF(anchors=first).files() == ARF(anchors=first).files()
    assert ARF(anchors=first).files()["anchors"] != ARF(anchors=second).files()["anchors"]
    assert ARF().files() == {}
    with pytest.raises(UsageError, match=r"knob anchors=.* must be a file; there is none of that name"):
        ARF(anchors=tmp_path / "c.parquet").files()
