"""Pretraining in miniature: colored squares and their names, a random sentence encoder, all four stages."""

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from steadyclip import load
from steadyclip.core.errors import DataError, ModelError, SteadyClipError
from steadyclip_lab.pretrain import augment
from steadyclip_lab.pretrain.config import PretrainConfig
from steadyclip_lab.pretrain.pairs import read_pairs
from steadyclip_lab.pretrain.scenes import SHARES, scenes
from steadyclip_lab.pretrain.stages import pretrain

COLORS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (30, 30, 230), "black": (0, 0, 0)}


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with random weights: any fixed map from texts to vectors will do."""
    folder = tmp_path_factory.mktemp("sentences")
    words = ["[PAD]", "[UNK]", *COLORS, "square", "house", "tree", "river", "stone"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    names = ["input_ids", "attention_mask"]
    PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_input_names=names
    ).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images, texts = [], []
    for i in range(8):
        for name, color in COLORS.items():
            image = Image.new("RGB", (20, 20), "white")
            image.paste(color, (2, 2, 12 + i, 12))
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            images.append(buffer.getvalue())
            texts.append(f"{name} square")
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pq.write_table(pa.table({"image": [*images, b"broken"], "text": [*texts, "red square"]}), path)
    return path


@pytest.fixture(scope="module", autouse=True)
def short_windows() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("steadyclip_lab.pretrain.stage.LOG_EVERY", 2)
        yield


def settings(pairs: Path, sentences: Path, out: Path) -> PretrainConfig:
    return PretrainConfig(
        data=str(pairs), out=out, text_teacher=str(sentences), augment="photos", batch_size=16,
        teacher_epochs=6, distil_epochs=6, text_steps=12, joint_epochs=12, negatives=4, image_size=16, patch_size=8,
        width=16, vision_layers=1, text_layers=1, heads=2, embed_dim=8, vocabulary=600, context=16, precision="fp32",
        checkpoint_minutes=1e-9,
    )  # fmt: skip


@pytest.fixture
def config(pairs: Path, sentences: Path, tmp_path: Path) -> PretrainConfig:
    return settings(pairs, sentences, tmp_path / "out")


@pytest.fixture(scope="module")
def straight(
    pairs: Path, sentences: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PretrainConfig, list[str]]:
    """A finished pretraining and what it printed."""
    lines: list[str] = []
    config = settings(pairs, sentences, tmp_path_factory.mktemp("straight"))
    pretrain(config, log=lines.append)
    return config, lines


def silent(_: str) -> None:
    pass


def test_makes_a_clip_that_loads_everywhere(straight: tuple[PretrainConfig, list[str]]) -> None:
    config, lines = straight
    folder = config.out / "model"
    assert lines[0].startswith("32 pairs, 4 distinct texts, 1 unreadable")
    assert lines[1].startswith("skipped row 32")
    from transformers import CLIPModel

    stock, ours = CLIPModel.from_pretrained(folder, dtype=torch.float32), load(folder)
    images_BCHW = torch.randn(2, 3, 16, 16)
    feature_BD = stock.visual_projection(stock.vision_model(images_BCHW).pooler_output)
    torch.testing.assert_close(
        torch.nn.functional.normalize(feature_BD, dim=-1), ours.encode_image(images_BCHW), atol=1e-6, rtol=0
    )
    for stage in ("teacher", "distil", "text", "joint"):
        curve = [json.loads(line) for line in (config.out / "stages" / f"{stage}.jsonl").read_text().splitlines()]
        assert curve[-1]["step"] == {"teacher": 12, "distil": 12, "text": 12, "joint": 24}[stage]
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}


class _Killed(Exception):
    pass


@pytest.mark.parametrize("stage", ["teacher", "distil", "text", "joint"])
def test_a_killed_run_resumes_to_the_same_weights(
    stage: str, config: PretrainConfig, straight: tuple[PretrainConfig, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from steadyclip_lab.pretrain import stage as module

    save, saves = module.save_checkpoint, []

    def save_then_die(folder: Path, *rest: object) -> None:
        save(folder, *rest)
        saves.append(folder.name)
        if saves.count(stage) == 3:
            raise _Killed

    monkeypatch.setattr(module, "save_checkpoint", save_then_die)
    with pytest.raises(_Killed):
        pretrain(config, log=silent)
    monkeypatch.setattr(module, "save_checkpoint", save)
    resumed = pretrain(config, log=silent)
    expected = straight[0].out
    for file in resumed.iterdir():
        assert file.read_bytes() == (expected / "model" / file.name).read_bytes(), file.name
    curve = f"stages/{stage}.jsonl"
    assert (config.out / curve).read_text() == (expected / curve).read_text()


def test_the_teacher_learns(straight: tuple[PretrainConfig, list[str]]) -> None:
    """Four well separated names: the loss falls to less than half."""
    config, _ = straight
    curve = [json.loads(line) for line in (config.out / "stages" / "teacher.jsonl").read_text().splitlines()]
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]


def test_goes_on_from_an_earlier_pretraining(
    config: PretrainConfig, straight: tuple[PretrainConfig, list[str]], tmp_path: Path
) -> None:
    """The loss starts where the earlier one ended, not where a fresh model starts."""
    earlier = straight[0].out
    pretrain(dataclasses.replace(config, out=tmp_path / "on", start_from=earlier), log=silent)
    for stage in ("teacher", "distil", "text"):
        fresh, on = (
            json.loads((out / "stages" / f"{stage}.jsonl").read_text().splitlines()[0])["loss"]
            for out in (earlier, tmp_path / "on")
        )
        assert on < 0.8 * fresh, stage


def test_captions_are_read_where_there_are_some(pairs: Path, tmp_path: Path) -> None:
    table = pq.read_table(pairs)
    captions = [f"{text}, drawn" for text in table["text"].to_pylist()]
    path = tmp_path / "pairs.parquet"
    pq.write_table(table.append_column("caption", [captions]), path)
    assert read_pairs(path, 16, "image", "text", "caption").captions == sorted(set(captions))
    assert read_pairs(path, 16, "image", "text", "remark").captions == []


def test_mistakes_are_clear(config: PretrainConfig, tmp_path: Path) -> None:
    def fails(error: type[SteadyClipError], match: str, **changes: object) -> None:
        out = tmp_path / str(len(list(tmp_path.iterdir())))  # a new one each time
        with pytest.raises(error, match=match):
            pretrain(dataclasses.replace(config, out=out, **changes), log=silent)

    fails(DataError, "there is no such file", data=str(tmp_path / "nowhere.parquet"))
    fails(DataError, "has no column 'caption'; it has image, text", text_column="caption")
    fails(DataError, "has 32 pairs, fewer than --batch-size 64", batch_size=64)
    fails(ModelError, "no folder with a config.json, no known name", text_teacher=str(tmp_path))
    fails(ModelError, "embed_dim=64 is wider than the sentence encoder", embed_dim=64)
    fails(SteadyClipError, "no checkpoint in .*teacher", start_from=tmp_path)
    pretrain(dataclasses.replace(config, teacher_epochs=1, distil_epochs=1, text_steps=1, joint_epochs=1), log=silent)
    with pytest.raises(SteadyClipError, match=r"other settings: teacher_epochs \(1 there, 6 now\)"):
        pretrain(dataclasses.replace(config, distil_epochs=1, text_steps=1, joint_epochs=1), log=silent)


@pytest.mark.parametrize(("show", "channels"), [(scenes, 4), (augment.drawings, 3), (augment.photos, 3)])
def test_augmentation_is_seeded_and_keeps_pixels_in_range(show, channels: int) -> None:
    images_BCHW = torch.rand(24, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    first, again, other = (show(images_BCHW, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (24, 3, 16, 16)
    assert float(first.min()) >= 0
    assert float(first.max()) <= 1


@pytest.mark.parametrize("colored", [False, True])
def test_a_drawing_is_seen_in_every_scene(colored: bool) -> None:
    """Shown and not shown differ where the drawing is, whatever stands around it."""
    drawings_B4HW = torch.zeros(100, 4, 64, 64)
    drawings_B4HW[:, 3, 16:48, 16:48] = 1
    if colored:
        drawings_B4HW[:, 1, 16:48, 16:48] = 0.8
    nothing_B4HW = drawings_B4HW * torch.tensor([1.0, 1, 1, 0])[:, None, None]
    seen_B3HW = scenes(drawings_B4HW, torch.Generator().manual_seed(3))
    empty_B3HW = scenes(nothing_B4HW, torch.Generator().manual_seed(3))
    far_B = (seen_B3HW - empty_B3HW).abs().amax((1, 2, 3))
    assert float((far_B > 0.1).float().mean()) > 0.98


def test_shares_of_the_scenes() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)


def test_transparency_is_kept_where_scenes_need_it(tmp_path: Path) -> None:
    image = Image.new("RGBA", (20, 20))
    image.paste((0, 0, 0, 255), (5, 5, 15, 15))
    image.save(buffer := io.BytesIO(), "PNG")
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"image": [buffer.getvalue(), b"broken"], "text": ["square", "square"]}), path)
    kept = read_pairs(path, 16, "image", "text", with_alpha=True)
    assert kept.images_NCHW.shape == (1, 4, 16, 16)
    assert kept.images_NCHW[0, 3, 0, 0] == 0
    assert kept.images_NCHW[0, 3, 8, 8] == 255
    assert kept.skipped == ["row 1: broken image (UnidentifiedImageError)"]
    assert (read_pairs(path, 16, "image", "text").images_NCHW[0, :, 0, 0] == 255).all()


def test_drawings_stay_dark_on_light_or_light_on_dark() -> None:
    """Ink and ground never come so near that the drawing vanishes."""
    images_B3HW = torch.ones(64, 3, 32, 32)
    images_B3HW[:, :, 10:22, 10:22] = 0
    changed_B3HW = augment.drawings(images_B3HW, torch.Generator().manual_seed(3))
    span_B = (changed_B3HW.amax((2, 3)) - changed_B3HW.amin((2, 3))).amax(1)
    assert float(span_B.min()) > 0.1
