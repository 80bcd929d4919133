"""Captioning: each captioner, a run that is killed, and what people get wrong."""

import json

import pyarrow.parquet as parquet
import pytest
from anchor_world import picture_set, write_tiny_blip

from steadyclip.anchors import Captioner, Captions, caption_images, load_captioner, read_captions
from steadyclip.anchors.captions import COLUMNS
from steadyclip.anchors.journal import Journal
from steadyclip.core.errors import DataError, ModelError


class Counted(Captioner):
    """Says how many images it got, and dies at one of the batches."""

    def __init__(self, die_at: int = -1) -> None:
        super().__init__("counted", {"beams": 1}, self.count)
        self.__dict__.update(batches=[], die_at=die_at)

    def count(self, pictures, images):
        if len(self.batches) == self.die_at:
            raise KeyboardInterrupt
        self.batches.append(images.keys)
        assert len(pictures) == len(images)
        return [f"{key} {picture.width}x{picture.height}" for key, picture in zip(images.keys, pictures, strict=True)]


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    return write_tiny_blip(tmp_path_factory.mktemp("blip"))


def test_blip_captions_pictures_from_local_weights(blip, tmp_path) -> None:
    images = picture_set(tmp_path / "images", 5)
    captioner = load_captioner(blip, beams=2, max_tokens=5)
    captions = caption_images(images, captioner, tmp_path / "c.parquet", batch_size=2)
    assert captions == read_captions(tmp_path / "c.parquet")
    assert tuple(captions) == images.keys
    table = parquet.read_table(tmp_path / "c.parquet")
    assert tuple(table.column_names) == COLUMNS
    decoding = json.loads(table.column("decoding")[0].as_py())
    assert (decoding["num_beams"], decoding["max_new_tokens"], len(decoding["weights"])) == (2, 5, 16)
    about = json.loads(table.schema.metadata[b"steadyclip"])
    assert about["captioner"] == blip
    assert about["set"] == images.hash
    prompted = load_captioner(blip, prompt="an image of", max_tokens=5)
    texts = caption_images(images, prompted, tmp_path / "prompted.parquet")
    assert all(text.startswith("an image of") for text in texts.values())


def test_template_and_manifest_need_no_model(tmp_path) -> None:
    images = picture_set(tmp_path / "images")
    prompts = caption_images(images, load_captioner("template", beams=3), tmp_path / "t.parquet")
    names = ("even", "odd")
    for n, text in enumerate(prompts.values()):
        assert text in (f"a photo of a {names[n % 2]}.", f"a drawing of a {names[n % 2]}.")
    assert len({text.split(" of ")[0] for text in prompts.values()}) == 2
    own = caption_images(images, load_captioner("manifest"), tmp_path / "m.parquet")
    assert list(own.values()) == [f"image number {n}" for n in range(6)]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_killed_run_goes_on_and_gives_the_same_bytes(tmp_path, at) -> None:
    images = picture_set(tmp_path / "images", 11)
    caption_images(images, Counted(), tmp_path / "whole.parquet", batch_size=3)
    killed = Counted(at)
    with pytest.raises(KeyboardInterrupt):
        caption_images(images, killed, tmp_path / "c.parquet", batch_size=3)
    assert not (tmp_path / "c.parquet").exists()
    with open(tmp_path / "c.parquet.partial.jsonl", "a") as journal:  # what a kill leaves
        journal.write('{"path": "x.png", "caption": "lost"}\n{"path": "3.pn')
    resumed = Counted()
    caption_images(images, resumed, tmp_path / "c.parquet", batch_size=3)
    assert len(killed.batches) + len(resumed.batches) == 4
    assert (tmp_path / "c.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert [path.name for path in tmp_path.glob("c.parquet*")] == ["c.parquet"]


def test_what_a_kill_behind_the_last_write_left_is_removed(tmp_path) -> None:
    images, out = picture_set(tmp_path / "images", 3), tmp_path / "c.parquet"
    made = caption_images(images, Counted(), out)
    journal = Journal(tmp_path / "c.parquet.partial.jsonl", list[dict])
    lines = [{"path": key, "caption": text} for key, text in made.items()]
    journal.append([{"captioner": "counted"}, *lines])
    assert caption_images(images, Counted(), out) == made
    assert not journal.path.exists()
    journal.append([{"captioner": "counted"}, {"path": "of-other-images.png", "caption": "x"}])
    assert caption_images(images, Counted(), out) == made
    assert journal.path.exists()


def test_only_new_images_are_captioned(tmp_path) -> None:
    images, said = picture_set(tmp_path / "images", 6), []
    caption_images(images.subset(range(4)), Counted(), tmp_path / "c.parquet")
    more = Counted()
    captions = caption_images(images.subset(range(2, 6)), more, tmp_path / "c.parquet", log=said.append)
    assert more.batches == [("4.png", "5.png")]
    assert len(captions) == 6
    assert "also holds captions of 2 other images, for instance 0.png: kept" in said[0]
    assert caption_images(images, none := Counted(), tmp_path / "c.parquet") == captions
    assert none.batches == []


def test_broken_pictures_are_named_and_the_others_captioned(tmp_path) -> None:
    images, said = picture_set(tmp_path / "images", 6), []
    (tmp_path / "images" / "1.png").write_bytes(b"")
    (tmp_path / "images" / "4.png").unlink()
    captions = caption_images(images, Counted(), tmp_path / "c.parquet", batch_size=2, log=said.append)
    assert list(captions) == ["0.png", "2.png", "3.png", "5.png"]
    assert said == [
        "no caption for 1.png: the file is empty (0 bytes)",
        "no caption for 4.png: no such file or directory",
    ]
    for key in ("0.png", "2.png", "3.png", "5.png"):
        (tmp_path / "images" / key).unlink()
    with pytest.raises(DataError, match=r"none of the 6 images of images got a caption, for instance 0\.png"):
        caption_images(images, Counted(), tmp_path / "none.parquet", log=said.append)


def test_another_captioner_does_not_mix_in(tmp_path) -> None:
    images = picture_set(tmp_path / "images")
    caption_images(images, load_captioner("template"), tmp_path / "c.parquet")
    with pytest.raises(DataError, match=r"holds captions by template \{\}, not by counted"):
        caption_images(images, Counted(), tmp_path / "c.parquet")
    with pytest.raises(KeyboardInterrupt):
        caption_images(images, Counted(1), tmp_path / "d.parquet", batch_size=2)
    with pytest.raises(DataError, match="was begun with other images or by another captioner"):
        caption_images(images, load_captioner("template"), tmp_path / "d.parquet")


def test_captioners_that_cannot_be_loaded(tmp_path, blip) -> None:
    with pytest.raises(ModelError, match="no model 'nothing-here'"):
        load_captioner("nothing-here")
    with pytest.raises(ModelError, match=r"config\.json is missing"):
        load_captioner(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ModelError, match="model_type 'clip'; captioners are blip, blip-2, florence2"):
        load_captioner(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "blip"}')
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        load_captioner(str(tmp_path))


def test_captions_of_other_images_under_the_same_names_are_refused(tmp_path) -> None:
    images, out = picture_set(tmp_path / "images"), tmp_path / "c.parquet"
    caption_images(images, load_captioner("template"), out)
    captions = Captions.of(images, out)
    captions.check(images)
    (tmp_path / "images" / images.keys[2]).write_bytes(images.store.read(images.keys[3]))
    with pytest.raises(
        DataError, match=rf"c.parquet was made for other images .*: 1 of 6 .* instance {images.keys[2]}"
    ):
        captions.check(images)
    with pytest.raises(DataError, match=r"c.parquet was made for other images"):
        caption_images(images, load_captioner("template"), out)
