"""A small CLIP from image-text pairs, in four stages that each can be resumed.

1. teacher: a CNN learns to place images at their text's direction in the space of a frozen sentence encoder;
2. distil: a vision transformer learns the teacher's feature, its map, and the texts, under patch dropout;
3. text: the text tower learns the same space from texts alone, through templates;
4. joint: contrastive training of both towers together.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.core.files import owning, write_atomic, writing
from steadyclip.core.precision import best_device
from steadyclip.core.schema import parse
from steadyclip.models.huggingface import quiet
from steadyclip_lab.pretrain import augment
from steadyclip_lab.pretrain.config import PretrainConfig
from steadyclip_lab.pretrain.pairs import Pairs, read_pairs
from steadyclip_lab.pretrain.scenes import scenes
from steadyclip_lab.pretrain.stage import Log, run_stage, start_from
from steadyclip_lab.pretrain.student import (
    TextStudent,
    VisionStudent,
    build_student,
    build_tokenizer,
    cosine_loss,
    same_tokenizer,
    write_preprocessor,
)
from steadyclip_lab.pretrain.teacher import ResidualCNN, SentenceSpace

__all__ = ["PretrainConfig", "pretrain"]

MEAN = STD = 0.5
"""Pixel normalization of models made here."""
TEMPERATURE = 0.05
"""Of every softmax over texts."""


class _Lessons:
    """What all stages share: the pairs, the space, the prompts."""

    def __init__(self, config: PretrainConfig, pairs: Pairs, space: SentenceSpace, device: torch.device) -> None:
        self.config, self.pairs, self.device = config, pairs, device
        self._space = space
        self.names_NE = space.texts_NE[: len(pairs.texts)].to(device)
        self.augment = scenes if config.augment == "scenes" else getattr(augment, config.augment)
        # Class names are often two things ("fruit or vegetable"), which no drawing is called. The same for every seed,
        # as they are in the vocabulary, and one run must be able to go on from another.
        two = random.Random(1)
        eithers = [f"{two.choice(pairs.texts)} or {two.choice(pairs.texts)}" for _ in pairs.texts]
        self.texts = [*pairs.texts, *space.vocabulary(), *pairs.captions, *eithers]

    @cached_property
    def texts_NE(self) -> Tensor:
        """All texts in the space; takes minutes, and only the text stage asks."""
        return torch.cat([self.names_NE, self._space(self.texts[len(self.names_NE) :]).to(self.device)])

    def images(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented, normalized images (B, 3, H, W) and the index of their texts (B,)."""
        rows_B = self.pairs.batch(step, self.config.batch_size, self.config.seed)
        images_BCHW = self.pairs.images_NCHW[rows_B].to(self.device).float() / 255
        return (self.augment(images_BCHW, generator) - MEAN) / STD, self.pairs.text_N[rows_B].to(self.device)

    def name_loss(self, features_BE: Tensor, text_B: Tensor, generator: torch.Generator) -> Tensor:
        """Softmax of image features over the batch's texts and random others, all in the frozen space.

        What is taught is the softmax of the right text's own similarities, so that near meanings are no mistakes.
        """
        others_K = torch.randint(len(self.names_NE), (self.config.negatives,), generator=generator).to(self.device)
        candidates_M, target_B = torch.unique(torch.cat([text_B, others_K]), return_inverse=True)
        logits_BM = F.normalize(features_BE.float(), dim=-1) @ self.names_NE[candidates_M].T / TEMPERATURE
        if not self.config.softness:
            return F.cross_entropy(logits_BM, target_B[: len(text_B)])
        near_BM = self.names_NE[text_B] @ self.names_NE[candidates_M].T / self.config.softness
        return F.cross_entropy(logits_BM, near_BM.softmax(-1))


def pretrain(config: PretrainConfig, log: Log = print) -> Path:
    """Runs or resumes all stages; returns the folder of the finished model, ``config.out / "model"``.

    The model is a stock Hugging Face CLIP with float16 weights on disk.

    Raises:
        DataError: the pairs cannot be read or are fewer than one batch.
        ModelError: the sentence encoder cannot be found.
        SteadyClipError: ``config.out`` holds a pretraining with other settings.
    """
    config.check()
    with owning(config.out / "pretrain.lock") as owner:
        if owner:
            raise SteadyClipError(f"{config.out} is being pretrained by {owner}: wait for it, or choose another --out.")
        _claim(config)
        return _pretrain(config, log)


def _pretrain(config: PretrainConfig, log: Log) -> Path:
    """All stages, in a folder that this process owns."""
    device = torch.device(best_device(config.device))
    pairs = read_pairs(
        Path(config.data), config.image_size, config.image_column, config.text_column, config.caption_column,
        with_alpha=config.augment == "scenes",
    )  # fmt: skip
    if len(pairs.text_N) < config.batch_size:
        raise DataError(f"{config.data} has {len(pairs.text_N)} pairs, fewer than --batch-size {config.batch_size}.")
    log(f"{len(pairs.text_N)} pairs, {len(pairs.texts)} distinct texts, {len(pairs.skipped)} unreadable; on {device}")
    for line in pairs.skipped[:20]:
        log(f"skipped {line}")
    space = SentenceSpace(config.text_teacher, pairs.texts, config.embed_dim)
    lessons = _Lessons(config, pairs, space, device)
    per_epoch = len(pairs.text_N) // config.batch_size

    torch.manual_seed(config.seed)
    teacher = ResidualCNN(config.embed_dim).to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    if config.start_from:
        start_from(config.start_from, "teacher", teacher)
    run_stage("teacher", teacher, _teacher_loss(teacher, lessons), steps=config.teacher_epochs * per_epoch,
              peak_rate=2e-3, config=config, log=log)  # fmt: skip

    model_folder = config.out / "model"
    tokenizer = build_tokenizer(lessons.texts, config, model_folder)
    clip = build_student(tokenizer, config)
    clip.to(device)  # pyright: ignore[reportArgumentType]  (the stub of transformers binds self twice)
    vision = VisionStudent(clip, teacher.map_width).to(device)
    if config.start_from:
        start_from(config.start_from, "joint", vision, "vision.")
    run_stage("distil", vision, _distil_loss(vision, teacher, lessons), steps=config.distil_epochs * per_epoch,
              peak_rate=1e-3, config=config, log=log)  # fmt: skip

    text = TextStudent(clip)
    if config.start_from:
        if same_tokenizer(config.start_from / "model", model_folder):
            start_from(config.start_from, "joint", text, "text.")
        else:
            log(f"other texts than in {config.start_from} make another vocabulary: the text tower starts anew")
    tokenize = _Tokenize(tokenizer, config, device)
    run_stage("text", text, _text_loss(text, lessons, tokenize), steps=config.text_steps,
              peak_rate=1e-3, config=config, log=log)  # fmt: skip

    both = nn.ModuleDict({"vision": vision, "text": text})
    both.register_parameter("logit_scale", clip.logit_scale)
    clip.logit_scale.data.fill_(float(torch.log(torch.tensor(1 / TEMPERATURE))))
    run_stage("joint", both, _joint_loss(both, lessons, tokenize), steps=config.joint_epochs * per_epoch,
              peak_rate=2e-4, config=config, log=log)  # fmt: skip

    with quiet(), writing(model_folder):
        clip.cpu().half().save_pretrained(model_folder)
        write_preprocessor(model_folder, config, MEAN, STD)
    log(f"finished: {model_folder}")
    return model_folder


def _teacher_loss(teacher: ResidualCNN, lessons: _Lessons):
    def loss(step: int, generator: torch.Generator) -> Tensor:
        images_B3HW, text_B = lessons.images(step, generator)
        features_BE, _ = teacher(images_B3HW.contiguous(memory_format=torch.channels_last))
        return lessons.name_loss(features_BE, text_B, generator)

    return loss


def _distil_loss(vision: VisionStudent, teacher: ResidualCNN, lessons: _Lessons):
    teacher.eval().requires_grad_(False)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        images_B3HW, text_B = lessons.images(step, generator)
        with torch.no_grad():
            taught_BE, map_BDhw = teacher(images_B3HW.contiguous(memory_format=torch.channels_last))
        features_BE, seen_BKD, which_BK = vision(images_B3HW, 0.5, generator)
        side = lessons.config.image_size // lessons.config.patch_size
        map_BND = F.adaptive_avg_pool2d(map_BDhw.float(), side).flatten(2).mT
        map_BKD = map_BND.gather(1, which_BK[..., None].expand(-1, -1, map_BND.shape[-1]))
        names = lessons.name_loss(features_BE, text_B, generator)
        return 0.3 * names + 2 * cosine_loss(features_BE, taught_BE) + cosine_loss(seen_BKD, map_BKD)

    return loss


class _Tokenize:
    """Texts through a template each, as token ids."""

    def __init__(self, tokenizer, config: PretrainConfig, device: torch.device) -> None:
        self.tokenizer, self.config, self.device = tokenizer, config, device

    def __call__(self, texts: list[str], generator: torch.Generator) -> dict[str, Tensor]:
        rng = random.Random(int(torch.randint(2**31, (1,), generator=generator)))
        prompts = [rng.choice(self.config.templates).format(text) for text in texts]
        tokens = self.tokenizer(
            prompts, padding=True, truncation=True, max_length=self.config.context, return_tensors="pt"
        )
        return {k: v.to(self.device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}


def _text_loss(text: TextStudent, lessons: _Lessons, tokenize: _Tokenize):
    def loss(step: int, generator: torch.Generator) -> Tensor:
        rows_B = torch.randint(len(lessons.texts), (lessons.config.batch_size,), generator=generator).unique()
        features_BE = F.normalize(text(tokenize([lessons.texts[i] for i in rows_B], generator)).float(), dim=-1)
        target_BE = lessons.texts_NE[rows_B.to(features_BE.device)]
        logits_BB = features_BE @ target_BE.T / TEMPERATURE
        own_B = torch.arange(len(rows_B), device=logits_BB.device)
        return 4 * cosine_loss(features_BE, target_BE) + 0.3 * F.cross_entropy(logits_BB, own_B)

    return loss


def _joint_loss(both: nn.ModuleDict, lessons: _Lessons, tokenize: _Tokenize):
    def loss(step: int, generator: torch.Generator) -> Tensor:
        images_B3HW, text_B = lessons.images(step, generator)
        image_BE, _, _ = both["vision"](images_B3HW, 1.0, generator)
        distinct_M, own_B = torch.unique(text_B, return_inverse=True)
        text_ME = both["text"](tokenize([lessons.pairs.texts[i] for i in distinct_M], generator))
        image_BE, text_ME = F.normalize(image_BE.float(), dim=-1), F.normalize(text_ME.float(), dim=-1)
        scale = both.get_parameter("logit_scale").exp().clamp(max=100)
        contrast = F.cross_entropy(scale * image_BE @ text_ME.T, own_B)
        # the sentence space stays the anchor: words that no image carries must not drift
        return contrast + cosine_loss(text_ME, lessons.names_NE[distinct_M]) * 4

    return loss


def _claim(config: PretrainConfig) -> None:
    """Writes config.json to the output folder, or makes sure that the one there says the same."""
    settings = {
        k: str(v) if isinstance(v, Path) else v
        for k, v in asdict(config).items()
        if k not in ("out", "checkpoint_minutes", "device")
    }
    settings = json.loads(json.dumps(settings))
    path = config.out / "config.json"
    if path.is_file():
        before = parse(path, "delete the folder, or choose another --out")
        if not isinstance(before, dict):
            raise SteadyClipError(f"{path} is not of a pretraining: delete the folder, or choose another --out.")
        changed = sorted(k for k in settings.keys() | before.keys() if settings.get(k) != before.get(k))
        if changed:
            names = ", ".join(f"{k} ({before.get(k)} there, {settings.get(k)} now)" for k in changed)
            raise SteadyClipError(
                f"{config.out} holds a pretraining with other settings: {names}. Choose another --out."
            )
    else:
        write_atomic(path, (json.dumps(settings, indent=2) + "\n").encode())
