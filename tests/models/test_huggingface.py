"""Equality with transformers itself, and checkpoints that cannot be used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from steadyclip.core.errors import ModelError
from steadyclip.models import DualEncoder, load
from steadyclip.models.huggingface import import_transformers, quiet
from zero_shot import zero_shot_logits

from .conftest import TEXTS, attach_everywhere, features, same

PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["clip", "siglip", "siglip2"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def stock_features(folder: Path, family: str) -> dict[str, torch.Tensor]:
    """As a user of transformers would compute them, with texts as the checkpoints of Google were trained on."""
    transformers = import_transformers()
    with quiet():
        stock = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        padding = "longest" if family == "clip" else "max_length"
        texts = [text.lower() for text in TEXTS]
        if family == "siglip":
            texts = [re.sub(r"[^\w\s]|_", "", text) for text in texts]
        tokens = tokenizer(texts, padding=padding, truncation=True, max_length=32, return_tensors="pt")
        if family != "clip":
            tokens.pop("attention_mask", None)
        with torch.no_grad():
            return dict(stock(pixel_values=PIXELS, **tokens))


def edit(path: Path, **changes: Any) -> None:
    settings = json.loads(path.read_text())
    for key, value in changes.items():
        settings[key] = {**settings[key], **value} if isinstance(settings.get(key), dict) else value
    path.write_text(json.dumps(settings))


def test_features_and_logits_equal_transformers(model: DualEncoder, folder: Path, family: str) -> None:
    stock = stock_features(folder, family)
    images, texts = features(model)
    assert torch.allclose(images, F.normalize(stock["image_embeds"], dim=-1), rtol=0, atol=1e-6)
    assert torch.allclose(texts, F.normalize(stock["text_embeds"], dim=-1), rtol=0, atol=1e-6)
    assert torch.allclose(zero_shot_logits(model, images, texts), stock["logits_per_image"], rtol=0, atol=1e-4)


def test_a_merged_and_saved_model_is_a_stock_checkpoint(model: DualEncoder, family: str, tmp_path: Path) -> None:
    attach_everywhere(model)
    model.merge_adapters()
    model.save(tmp_path)
    stock = stock_features(tmp_path, family)
    images, texts = features(model)
    assert torch.allclose(images, stock["image_embeds"], rtol=0, atol=1e-6)
    # rounding: on torch 2.6 each is 7e-7 from float64, and 1.4e-6 from the other
    assert torch.allclose(texts, stock["text_embeds"], rtol=0, atol=2e-6)
    import_transformers()
    with quiet():
        # not from the top of transformers, where version 5.6 hides it if there is no torchvision
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    picture = Image.effect_noise((45, 33), 80).convert("RGB")
    pixels = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0])
    assert torch.equal(model.preprocess(picture), pixels)


def test_the_other_texts_of_a_batch_change_nothing(model: DualEncoder, family: str) -> None:
    with torch.no_grad():
        alone = model.encode_text(["a cat"])
        among = model.encode_text(["a cat", "a photo of a very old dog, beside a house", "b"])
    assert torch.allclose(alone[0], among[0], rtol=0, atol=1e-6)


def test_what_the_tokenizer_says_of_padding_and_masks_is_not_followed(
    model: DualEncoder, copy_of: Path, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = model.encode_text(TEXTS)
    path = copy_of / "tokenizer_config.json"
    edit(path, model_max_length=16, padding_side="left", model_input_names=["input_ids", "attention_mask"])
    changed = load(copy_of)
    assert torch.equal(changed.encode_text(TEXTS), expected)
    assert list(changed.tokenize(TEXTS)) == ["input_ids"]
    said = capsys.readouterr().err
    assert f"{path} says model_max_length 16; texts of up to 32 tokens are read" in said
    assert f"{path} says padding_side 'left'; texts are padded on the right" in said
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key != "model_input_names"}))
    assert torch.equal(load(copy_of).encode_text(TEXTS), expected)
    changed.save(tmp_path / "saved")  # says what was used
    load(tmp_path / "saved")
    assert capsys.readouterr().err == ""


def test_siglip_reads_no_punctuation(model: DualEncoder, family: str) -> None:
    written, plain = model.tokenize([" A cat,  a (dog)!"])["input_ids"], model.tokenize(["a cat a dog"])["input_ids"]
    assert torch.equal(written, plain) == (family == "siglip")


@pytest.mark.parametrize("highest", ["end", "pad"])
def test_clip_finds_the_end_of_a_text_whatever_the_config_says(copy_of: Path, family: str, highest: str) -> None:
    """The oldest configs say 2, which means the highest id: wrong as soon as a token is added."""
    if family != "clip":
        pytest.skip("SigLIP pools at the last position")
    expected = load(copy_of).encode_text(["a cat"])
    if highest == "pad":
        tokenizer = import_transformers().AutoTokenizer.from_pretrained(copy_of)
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        tokenizer.save_pretrained(copy_of)
        weights = load_file(copy_of / "model.safetensors")
        name = "text_model.embeddings.token_embedding.weight"
        weights[name] = torch.cat([weights[name], torch.zeros_like(weights[name][:1])])
        save_file(weights, copy_of / "model.safetensors", metadata={"format": "pt"})
        edit(copy_of / "config.json", text_config={"vocab_size": len(weights[name])})
    edit(copy_of / "config.json", text_config={"eos_token_id": 2})
    model = load(copy_of)
    assert torch.allclose(model.encode_text(["a cat", "a photo of a dog"])[:1], expected, rtol=0, atol=1e-6)
    model.save(copy_of / "saved")
    settings = json.loads((copy_of / "saved" / "config.json").read_text())["text_config"]
    assert settings["eos_token_id"] == model.tokenize(["a"])["input_ids"][0, -1]


@pytest.mark.parametrize("file", ["weights.bin", "../weights.safetensors", "/elsewhere/weights.safetensors", 7])
def test_an_index_names_safetensors_beside_it_only(copy_of: Path, file: Any) -> None:
    index = copy_of / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"logit_scale": file}}))
    with pytest.raises(ModelError, match=r"index.json names .*: only \*.safetensors files beside it are read"):
        load(copy_of)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"text_config": {"vocab_size": 10**9}}, r"makes text_model.embeddings.token_embedding.weight \[1000000000, "),
        ({"text_config": {"num_hidden_layers": 100_000}}, "says 100000 text layers, and the weights have "),
        ({"vision_config": {"num_attention_heads": 7}}, r"config.json|cannot be read .*\b7\b"),
    ],
)
def test_numbers_of_the_config_that_the_weights_do_not_have(copy_of: Path, change: dict, line: str) -> None:
    edit(copy_of / "config.json", **change)
    with pytest.raises(ModelError, match=line) as caught:
        load(copy_of)
    assert "\n" not in str(caught.value)


def test_siglip2_reads_lower_case_only(model: DualEncoder, family: str) -> None:
    capital, small = model.tokenize(["A Cat"])["input_ids"], model.tokenize(["a cat"])["input_ids"]
    assert torch.equal(capital, small)


def test_siglip_pads_to_full_length(model: DualEncoder, family: str) -> None:
    assert model.tokenize(["a"])["input_ids"].shape[1] == (3 if family == "clip" else 32)


def test_half_precision_on_disk_is_float32_in_memory(copy_of: Path) -> None:
    path = copy_of / "model.safetensors"
    half = {name: value.half() for name, value in load_file(path).items()}
    save_file(half, path, metadata={"format": "pt"})
    edit(copy_of / "config.json", dtype="float16")
    model = load(copy_of)
    assert {value.dtype for value in model.network.parameters()} == {torch.float32}
    weight = model.image_tower.blocks[0].q.weight
    assert torch.equal(weight, half["vision_model.encoder.layers.0.self_attn.q_proj.weight"].float())
    # saved in float32 and read again: the same weights, the same hash
    model.save(copy_of / "again")
    assert load(copy_of / "again").weights_hash == model.weights_hash


def test_the_hash_does_not_depend_on_the_order_in_the_file(copy_of: Path) -> None:
    before = load(copy_of).weights_hash
    path = copy_of / "model.safetensors"
    tensors = load_file(path)
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    path.unlink()
    for number, names in enumerate(halves, start=1):
        part = {name: tensors[name] for name in reversed(names)}
        save_file(part, copy_of / f"model-{number:05}-of-00002.safetensors", metadata={"format": "pt"})
    where = {name: f"model-{n:05}-of-00002.safetensors" for n, names in enumerate(halves, start=1) for name in names}
    index = {"metadata": {"total_size": 0}, "weight_map": where}
    (copy_of / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(copy_of).weights_hash == before


def test_the_oldest_clip_configs_pool_at_the_highest_token(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    old = Path(shutil.copytree(checkpoints["clip"], tmp_path / "old"))
    edit(old / "config.json", text_config={"eos_token_id": 2})
    assert same(features(load(old)), features(load(checkpoints["clip"])))


def test_image_settings_in_the_new_joint_file(copy_of: Path) -> None:
    before = load(copy_of).preprocess
    path = copy_of / "preprocessor_config.json"
    (copy_of / "processor_config.json").write_text(json.dumps({"image_processor": json.loads(path.read_text())}))
    path.unlink()
    assert load(copy_of).preprocess == before


def test_siglip2_is_known_by_its_tokenizer(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """Hub checkpoints name Gemma's class, which keeps capitals; the model was trained without."""
    folder = Path(shutil.copytree(checkpoints["siglip2"], tmp_path / "copy"))
    edit(folder / "tokenizer_config.json", tokenizer_class="GemmaTokenizer", model_input_names=["input_ids"])
    model = load(folder)
    assert model.family == "siglip2"
    assert list(model.tokenize(["A Cat"])) == ["input_ids"]
    assert torch.equal(model.tokenize(["A Cat"])["input_ids"], model.tokenize(["a cat"])["input_ids"])


# ---- what cannot be used


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("config.json", "config.json is missing"),
        ("model.safetensors", "model.safetensors is missing"),
        ("preprocessor_config.json", "preprocessor_config.json is missing"),
        ("tokenizer.json", "tokenizer.json is missing"),
    ],
)
def test_a_missing_file_is_named(copy_of: Path, remove: str, message: str) -> None:
    (copy_of / remove).unlink()
    with pytest.raises(ModelError, match=message) as caught:
        load(copy_of)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_not_read(copy_of: Path) -> None:
    (copy_of / "model.safetensors").unlink()
    (copy_of / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(ModelError, match=r"pytorch_model.bin: a pickle can run code"):
        load(copy_of)
    with pytest.raises(ModelError, match="a pickle can run code"):
        load(copy_of / "pytorch_model.bin")


def test_broken_files_are_named_in_one_line(copy_of: Path) -> None:
    path = copy_of / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    with pytest.raises(ModelError, match="weights cannot be read") as caught:
        load(copy_of)
    assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    (copy_of / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match="tokenizer cannot be read") as caught:
        load(copy_of)
    assert "\n" not in str(caught.value)
    (copy_of / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: not valid JSON"):
        load(copy_of)


def test_missing_and_misshapen_weights_are_never_made_up(copy_of: Path) -> None:
    path = copy_of / "model.safetensors"
    tensors = load_file(path)
    name = "text_model.encoder.layers.1.mlp.fc1.bias"
    fewer = {key: value for key, value in tensors.items() if key != name}
    save_file(fewer, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"does not fit config.json: {name}"):
        load(copy_of)
    save_file({**tensors, name: torch.zeros(7)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=rf"config.json makes {name} \[\d+\], the weights \[7\]"):
        load(copy_of)


def test_other_kinds_of_models_are_named(copy_of: Path) -> None:
    edit(copy_of / "config.json", model_type="siglip2", architectures=["Siglip2Model"])
    with pytest.raises(ModelError, match=r"NaFlex .* not supported"):
        load(copy_of)
    edit(copy_of / "config.json", model_type="bert")
    with pytest.raises(ModelError, match="model_type 'bert'"):
        load(copy_of)


def test_image_settings_that_do_not_fit_the_weights_are_named(copy_of: Path) -> None:
    edit(copy_of / "preprocessor_config.json", size={"height": 48, "width": 48}, do_center_crop=False)
    with pytest.raises(ModelError, match=r"48 x 48 pixels, .* want 32 x 32"):
        load(copy_of)


def test_a_tokenizer_whose_end_the_model_does_not_know_is_refused(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoints["clip"], tmp_path / "copy"))
    edit(folder / "config.json", text_config={"eos_token_id": 77})
    with pytest.raises(ModelError, match="eos_token_id 77, but the tokenizer ends texts with 513"):
        load(folder)
