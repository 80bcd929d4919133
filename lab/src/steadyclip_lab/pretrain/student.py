"""The student: a small CLIP in the stock Hugging Face format, with a byte-pair vocabulary trained on the texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.models.huggingface import import_transformers
from steadyclip_lab.pretrain.config import PretrainConfig

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"


def build_tokenizer(texts: Sequence[str], config: PretrainConfig, folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose merges come from ``texts``; written to ``folder`` once and read from there afterwards."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    CLIPTokenizer = import_transformers().CLIPTokenizer
    if not (folder / "tokenizer.json").is_file():
        bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=END))
        bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=config.vocabulary,
            # every byte also as the end of a word, or rare letters there would be unknown; all in a fixed order,
            # because the trainer breaks ties between merges by it
            special_tokens=[START, END, *letters, *(f"{letter}</w>" for letter in letters)],
            end_of_word_suffix="</w>",
            show_progress=False,
        )
        bpe.train_from_iterator([template.format(text) for text in texts for template in config.templates], trainer)
        learned = json.loads(bpe.to_str())["model"]
        merges = [tuple(merge) for merge in learned["merges"]]
        tokenizer = CLIPTokenizer(
            vocab=learned["vocab"],
            merges=merges,
            bos_token=START,
            eos_token=END,
            unk_token=END,
            pad_token=END,
            model_max_length=config.context,
        )
        tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def same_tokenizer(first: Path, second: Path) -> bool:
    """Two folders of ``build_tokenizer`` hold the same vocabulary and merges."""
    first, second = first / "tokenizer.json", second / "tokenizer.json"
    return first.is_file() and first.read_bytes() == second.read_bytes()


def build_student(tokenizer: CLIPTokenizer, config: PretrainConfig) -> CLIPModel:
    """A freshly initialized CLIP of the sizes in ``config``."""
    transformers = import_transformers()
    tower = {"hidden_size": config.width, "intermediate_size": 4 * config.width, "num_attention_heads": config.heads,
             "hidden_act": "gelu", "projection_dim": config.embed_dim}  # fmt: skip
    text: dict[str, Any] = {
        "num_hidden_layers": config.text_layers,
        "max_position_embeddings": config.context,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "num_hidden_layers": config.vision_layers,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
    }
    torch.manual_seed(config.seed)
    settings = transformers.CLIPConfig(
        text_config=tower | text, vision_config=tower | vision, projection_dim=config.embed_dim
    )
    return transformers.CLIPModel(settings)


def write_preprocessor(folder: Path, config: PretrainConfig, mean: float, std: float) -> None:
    """preprocessor_config.json as stock CLIP has it."""
    size = config.image_size
    settings = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [mean] * 3,
        "image_std": [std] * 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class VisionStudent(nn.Module):
    """The vision tower while it is taught: patch dropout, and a linear map from patch tokens to the teacher's map."""

    def __init__(self, clip: CLIPModel, map_width: int) -> None:
        super().__init__()
        self.vision, self.project = clip.vision_model, clip.visual_projection
        self.to_map = nn.Linear(clip.visual_projection.in_features, map_width)

    def forward(self, images_B3HW: Tensor, keep: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Feature (B, E), map of the kept patches (B, K, M), and which patches were kept (B, K)."""
        x_BND = self.vision.embeddings(images_B3HW)
        B, N, D = x_BND.shape
        kept = round(keep * (N - 1))
        which_BK = torch.rand(B, N - 1, generator=generator).argsort(1)[:, :kept].to(x_BND.device)
        patches_BKD = x_BND[:, 1:].gather(1, which_BK[..., None].expand(-1, -1, D))
        x_BND = self.vision.pre_layrnorm(torch.cat([x_BND[:, :1], patches_BKD], 1))
        x_BND = self.vision.encoder(inputs_embeds=x_BND).last_hidden_state
        return self.project(self.vision.post_layernorm(x_BND[:, 0])), self.to_map(x_BND[:, 1:]), which_BK


class TextStudent(nn.Module):
    """The text tower: token ids (B, L) to a feature (B, E)."""

    def __init__(self, clip: CLIPModel) -> None:
        super().__init__()
        self.text, self.project = clip.text_model, clip.text_projection

    def forward(self, tokens: dict[str, Tensor]) -> Tensor:
        return self.project(self.text(**tokens).pooler_output)


def cosine_loss(a: Tensor, b: Tensor) -> Tensor:
    """Mean of 1 - cos of the last dimension."""
    return 1 - F.cosine_similarity(a.float(), b.float(), dim=-1).mean()
