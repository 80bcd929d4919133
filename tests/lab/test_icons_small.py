"""icons-small: stock files, the features of stock code, and enough zero-shot ability to be worth tuning."""

import pytest
import torch

from steadyclip import evaluate, get_method, load, load_data
from steadyclip.models import DualEncoder
from steadyclip_lab.data_sets import ICONS_SMALL


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return load("icons-small")


def test_files_are_small_and_safe() -> None:
    assert sum(p.stat().st_size for p in ICONS_SMALL.iterdir()) < 25_000_000
    assert {p.suffix for p in ICONS_SMALL.iterdir()} == {".json", ".safetensors", ".md", ".svg"}


def test_loads_in_plain_transformers_with_equal_features(model: DualEncoder) -> None:
    from transformers import AutoTokenizer, CLIPModel

    stock, tokenizer = (
        CLIPModel.from_pretrained(ICONS_SMALL, dtype=torch.float32),
        AutoTokenizer.from_pretrained(ICONS_SMALL),
    )
    texts = ["an icon of a sea animal.", "an icon of a bus."]
    pixels_BCHW = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        image_BD = stock.visual_projection(stock.vision_model(pixels_BCHW).pooler_output)
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        text_BD = stock.text_projection(stock.text_model(**tokens).pooler_output)
        for expected, got in ((image_BD, model.encode_image(pixels_BCHW)), (text_BD, model.encode_text(texts))):
            torch.testing.assert_close(torch.nn.functional.normalize(expected, dim=-1), got, atol=1e-6, rtol=0)


@pytest.mark.parametrize("half", ["base", "new"])
def test_knows_things_without_training(model: DualEncoder, half: str) -> None:
    found = {
        prompt: evaluate(model, get_method("zero-shot"), load_data("lab-things").test_set(half), templates=[prompt])
        for prompt in ("{}", "an icon of a {}.", "a drawing of a {}.")
    }
    top1 = {prompt: record.metrics.top1 for prompt, record in found.items() if record.metrics}
    assert min(top1.values()) >= 0.72
    assert max(top1.values()) - min(top1.values()) <= 0.015
