"""The files that a training reads, and what it draws from them."""

import io
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from steadyclip.anchors import Captions, Pair, RetrievedPairs, read_anchors, read_captions, write_anchors
from steadyclip.core.errors import DataError
from steadyclip.data import ImageSet
from steadyclip.models import Preprocess

PREPROCESS = Preprocess((8, 8), "squash", (8, 8), False, (0.5,) * 3, (0.5,) * 3)


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def anchors(tmp_path):
    pairs = [
        Pair("a", 1, 0.9, "p1", "a red cat", png(10)),
        Pair("a", 2, 0.8, "p2", "a dog", png(20)),
        Pair("b", 1, 0.7, "p1", "a red cat", png(10)),
    ]
    return write_anchors(tmp_path / "anchors.parquet", iter(pairs), {"k": 2, "query": "image"})


def image_set(captions: tuple[str | None, ...]) -> ImageSet:
    keys = tuple("abc"[: len(captions)])
    none = (None,) * len(keys)
    return ImageSet("pets", ("x", "y"), ("a {}.",), keys, (0,) * len(keys), none, captions, store=None)


def test_anchors_are_read_as_they_were_written(anchors) -> None:
    assert anchors.about == {"k": 2, "query": "image"}
    assert anchors.keys == ("a", "b")
    assert anchors.pairs("a") == [(png(10), "a red cat"), (png(20), "a dog")]
    assert (len(anchors), anchors.distinct) == (3, (0, 1))
    assert anchors[2].similarity == pytest.approx(0.7)
    with pytest.raises(DataError, match="no pairs for c"):
        anchors.pairs("c")


def test_the_same_pairs_give_the_same_bytes(anchors, tmp_path) -> None:
    again = write_anchors(tmp_path / "again.parquet", [anchors[i] for i in range(3)], anchors.about)
    assert again.path.read_bytes() == anchors.path.read_bytes()


@pytest.mark.parametrize(("order", "length"), [("retrieved", 3), ("distinct", 2)])
def test_retrieved_pairs_are_a_stream(anchors, order, length) -> None:
    stream = RetrievedPairs(anchors, PREPROCESS, order, crop=0.5)
    assert len(stream) == length
    batch = stream.collate([stream.item(i, random.Random(i)) for i in range(length)])
    assert batch["images_BCHW"].shape == (length, 3, 8, 8)
    assert batch["texts"] == ("a red cat", "a dog", "a red cat")[:length]
    again = stream.collate([stream.item(i, random.Random(i)) for i in range(length)])
    assert torch.equal(batch["images_BCHW"], again["images_BCHW"])


def test_captions_come_from_the_manifest() -> None:
    captions = Captions.of(image_set(("one", "two", " ")))
    assert captions.texts == {"a": "one", "b": "two"}
    captions.check(image_set(("one", "two")))
    with pytest.raises(DataError, match="the captions of pets: 1 of 3 images of pets have no caption, for instance c"):
        captions.check(image_set((None,) * 3))


def test_missing_and_foreign_captions_are_one_line() -> None:
    captions = Captions({"a": "one", "z": "of another set"}, name="captions.parquet")
    with pytest.raises(DataError, match=r"captions.parquet: 2 of 3 images of pets .* instance b; 1 captions .* z"):
        captions.check(image_set((None, None, None)))


def write(path, /, **columns):
    parquet.write_table(pa.table(columns), path)
    return path


def test_captions_file(tmp_path) -> None:
    path = write(tmp_path / "c.parquet", path=["a", "b"], caption=["one", "two"])
    assert read_captions(path) == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"path": ["a"], "captions": ["x"]}, "no column 'caption'; it has path, captions. Did you mean 'captions'"),
        ({"path": ["a", "a"], "caption": ["x", "y"]}, "row 2: a second caption for a"),
        ({"path": ["a"], "caption": [" "]}, "row 1: path and caption must be texts"),
    ],
)
def test_what_is_wrong_with_a_captions_file_is_one_line(tmp_path, columns, line) -> None:
    with pytest.raises(DataError, match=line):
        read_captions(write(tmp_path / "c.parquet", **columns))


def test_files_that_are_not_there_or_of_another_kind(tmp_path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_captions(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("hello")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_anchors(tmp_path / "text.parquet")
    with pytest.raises(DataError, match="is not an anchor file: it has no column 'query'"):
        read_anchors(write(tmp_path / "c.parquet", path=["a"], caption=["one"]))
