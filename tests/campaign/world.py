"""The small world of the campaign: a tiny CLIP, images, pairs, and what the product makes of them.

Everything is drawn or random from fixed seeds, and takes seconds to make.
"""

from __future__ import annotations

import dataclasses
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from PIL import Image

from campaign.process import run
from steadyclip.models.huggingface import import_transformers
from steadyclip.models.testing import write_tiny
from steadyclip_lab.suite.plan import DATA_SETS

CLASSES = ("ant", "bee", "cow", "dog")
BUILT = "lab-faces"
METHOD = "lora[steps=4,batch_size=4]"


def png(seed: int, kind: str = "PNG") -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(blocks).resize((24, 24), Image.Resampling.NEAREST).save(out, kind)
    return out.getvalue()


def shrink() -> None:
    """Of the data set that is built, two images of each class are enough in this process: all are drawn for minutes."""
    DATA_SETS[BUILT] = dataclasses.replace(DATA_SETS[BUILT], per_class=(1, 0, 1))


def make(root: Path) -> Path:
    """The world below ``root``: what commands read, and one of each thing that they write."""
    root.mkdir(parents=True)
    (root / "model").mkdir()
    write_tiny("clip", root / "model")
    for number, name in enumerate(CLASSES):
        (root / "photos" / name).mkdir(parents=True)
        for index in range(6):
            (root / "photos" / name / f"{index}.png").write_bytes(png(1000 * number + index))
    rows = ["path,label", *(f"photos/{name}/{index}.png,{name}" for name in CLASSES for index in range(6))]
    (root / "table.csv").write_text("\n".join(rows) + "\n")
    images = [png(i) for i in range(24)]
    texts = [f"a photo of a {CLASSES[i % 4]}" for i in range(24)]
    parquet.write_table(pa.table({"image": images, "text": texts}), root / "pairs.parquet")
    parquet.write_table(
        pa.table({"image": images, "label": [CLASSES[i % 4] for i in range(24)]}), root / "data.parquet"
    )
    with tarfile.open(root / "shard.tar", "w") as file:
        for index in range(6):
            for suffix, content in ((".png", png(index)), (".txt", texts[index].encode())):
                info = tarfile.TarInfo(f"{index}{suffix}")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
    _sentence_encoder(root / "sentences")
    for name in ("train", "evaluate", "embed", "caption", "retrieve", "export", "features", "predict"):
        words = COMMANDS[name].words(root, root)
        ended = run(words, [])
        if ended.code or ended.problem:
            raise SystemExit(f"the campaign's own world cannot be made: steadyclip {' '.join(words)}\n{ended.error}")
    return root


def _sentence_encoder(folder: Path) -> None:
    """A BERT of one block over ten words, for ``pretrain``."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    transformers = import_transformers()
    words = ["[PAD]", "[UNK]", "a", "photo", "of", *CLASSES]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)
    transformers.BertModel(config).save_pretrained(folder)


@dataclass(frozen=True)
class Command:
    """A command of the product that writes.

    Attributes:
        words: from the world and the folder to write to.
        results: patterns of the files that must be the same whatever happened on the way; JSON without times.
    """

    words: Callable[[Path, Path], list[str]]
    results: tuple[str, ...]


def _train(world: Path, out: Path) -> list[str]:
    return [
        "train", "--data", str(world / "photos"), "--model", str(world / "model"), "--method", METHOD, "--shots", "2",
        "--checkpoint-steps", "1", "--log-every", "1", "--no-progress", "--device", "cpu", "--out", str(out / "run"),
    ]  # fmt: skip


def _bench(world: Path, out: Path) -> list[str]:
    return [
        "bench", "base-to-new", "--data", str(world / "photos"), "--model", str(world / "model"), "--methods",
        "zero-shot", METHOD, "--shots", "1", "--seeds", "1", "--no-progress", "--device", "cpu",
        "--out", str(out / "bench"),
    ]  # fmt: skip


def _pretrain(world: Path, out: Path) -> list[str]:
    sizes = "--batch-size 8 --teacher-epochs 1 --distil-epochs 1 --text-steps 2 --joint-epochs 1 --negatives 4 "
    sizes += "--image-size 16 --patch-size 8 --width 16 --vision-layers 1 --text-layers 1 --heads 2 --embed-dim 8 "
    sizes += "--vocabulary 600 --context 12 --augment photos --device cpu --precision fp32"
    return [
        "pretrain", "--data", str(world / "pairs.parquet"), "--text-teacher", str(world / "sentences"), *sizes.split(),
        "--out", str(out / "pretrained"),
    ]  # fmt: skip


def _evaluate(world: Path, out: Path) -> list[str]:
    return ["evaluate", str(out / "run"), "--data", str(world / "photos"), "--device", "cpu"]


def _embed(world: Path, out: Path) -> list[str]:
    return [
        "anchors", "embed", str(world / "pairs.parquet"), "--model", str(world / "model"), "--batch-size", "8",
        "--workers", "1", "--device", "cpu", "--out", str(out / "pool"),
    ]  # fmt: skip


def _caption(world: Path, out: Path) -> list[str]:
    return [
        "anchors", "caption", "--data", str(world / "photos"), "--captioner", "template", "--batch-size", "4",
        "--workers", "1", "--device", "cpu", "--out", str(out / "captions.parquet"),
    ]  # fmt: skip


def _retrieve(world: Path, out: Path) -> list[str]:
    return [
        "anchors", "retrieve", "--data", str(world / "photos"), "--model", str(world / "model"), "--pool",
        str(world / "pool"), "--near-duplicate", "None", "--device", "cpu", "--out", str(out / "anchors.parquet"),
    ]  # fmt: skip


def _report(world: Path, out: Path) -> list[str]:
    return ["report", str(world / "run"), "--out", str(out / "page.html"), "--results", str(out / "results.csv")]


def _build(world: Path, out: Path) -> list[str]:
    return ["data", "build", BUILT]


def _export(world: Path, out: Path) -> list[str]:
    return [
        "export", str(world / "run"), "--to", "hf", "--data", str(world / "photos"), "--check", "4", "--device", "cpu",
        "--force", "--out", str(out / "export"),
    ]  # fmt: skip


def _features(world: Path, out: Path) -> list[str]:
    return ["embed", str(world / "run"), str(world / "photos"), "--batch-size", "8", "--out", str(out / "features")]


def _predict(world: Path, out: Path) -> list[str]:
    return [
        "predict", str(world / "run"), str(world / "photos"), "--batch-size", "8", "--resume",
        "--out", str(out / "answers.csv"),
    ]  # fmt: skip


COMMANDS = {
    "train": Command(_train, ("run/trained.safetensors", "run/split.json", "run/log.jsonl", "run/run.json")),
    "bench": Command(_bench, ("bench/*/records/*.json", "bench/*/trained.safetensors", "bench/*.csv")),
    "evaluate": Command(_evaluate, ("run/records/*.json",)),
    "embed": Command(_embed, ("pool/*.json", "pool/*/*")),
    "caption": Command(_caption, ("captions.parquet",)),
    "retrieve": Command(_retrieve, ("anchors.parquet",)),
    "report": Command(_report, ("page.html", "results.csv")),
    "export": Command(_export, ("export/*.safetensors", "export/classifier.json", "export/*config.json")),
    "features": Command(_features, ("features/*/*",)),
    "predict": Command(_predict, ("answers.csv",)),
    "build": Command(_build, (f"cache/{BUILT}.parquet",)),
    "pretrain": Command(_pretrain, ("pretrained/model/model.safetensors", "pretrained/model/tokenizer.json")),
}
"""What is killed and starved. Each writes below the folder it is given, and to the cache there."""
