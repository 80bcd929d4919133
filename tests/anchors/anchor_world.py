"""Small pools of pairs in every kind of source."""

import csv
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from PIL import Image

from steadyclip.anchors.embedding import JOURNAL, Batch, finish_part
from steadyclip.anchors.journal import Journal
from steadyclip.anchors.pool import KINDS, FinishedPart, Manifest, Pool, Sources
from steadyclip.data import ImageSet
from steadyclip.data.images import FileStore
from steadyclip.models.huggingface import import_transformers, quiet


def png(seed: int, size: tuple[int, int] = (40, 36)) -> bytes:
    """A smooth random image, another for each seed."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path, first: int, count: int):
    """Pairs ``first`` to ``first + count``, in several row groups."""
    numbers = range(first, first + count)
    table = pa.table(
        {
            "path": [f"pair-{n}" for n in numbers],
            "image": pa.array([png(n) for n in numbers], pa.binary()),
            "text": [f"image number {n}" for n in numbers],
        }
    )
    parquet.write_table(table, path, row_group_size=7)
    return path


def write_tar(path, first: int, count: int, texts: str = ".txt"):
    """The same pairs as a shard; ``texts`` is the kind of file that the text is in."""
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for n in range(first, first + count):
            text = f"image number {n}"
            written = text if texts == ".txt" else json.dumps({"caption": text})
            for suffix, data in ((".png", png(n)), (texts, written.encode())):
                member = tarfile.TarInfo(f"pair-{n}{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


def write_folder(path, first: int, count: int):
    """The same pairs as files with a table of texts."""
    path.mkdir()
    with open(path / "texts.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "text"])
        for n in range(first, first + count):
            (path / f"pair-{n}.png").write_bytes(png(n))
            rows.writerow([f"pair-{n}.png", f"image number {n}"])
    return path


def make_pool(path, features, parts: int = 2) -> Pool:
    """A pool with these features (N, D) by kind, in parts of one size; its pairs cannot be fetched."""
    (rows, width), found = features["image"].shape, []
    for i in range(parts):
        part = slice(i * rows // parts, (i + 1) * rows // parts)
        arrays = {kind: np.asarray(features[kind][part], np.float32) for kind in KINDS}
        pairs = [
            {"key": f"{i}-{n}", "text": "x", "place": 0, "size": 0, "digest": ""} for n in range(len(arrays["image"]))
        ]
        folder = path / f"part{i}"
        Journal(folder / JOURNAL, Batch).append(Batch(pairs, {kind: array.tobytes() for kind, array in arrays.items()}))
        finish_part(folder, f"part{i}", width)
        found.append(FinishedPart.read(folder))
    Manifest("none", "none", "none", width, 1, Sources({}, None, 1), found).write(path)
    return Pool.open(path)


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    features = rng.standard_normal((rows, width)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def picture_set(folder, count: int = 6, captions: bool = True) -> ImageSet:
    """Fine-tune images of two classes: images 0, 1, 2, ... of the same kind as those of the pools."""
    folder.mkdir()
    keys = [f"{n}.png" for n in range(count)]
    for n, key in enumerate(keys):
        (folder / key).write_bytes(png(n))
    texts = tuple(f"image number {n}" if captions else None for n in range(count))
    return ImageSet(
        "images", ("even", "odd"), ("a photo of a {}.", "a drawing of a {}."), tuple(keys),
        tuple(n % 2 for n in range(count)), (None,) * count, texts, FileStore(folder),
    )  # fmt: skip


def write_tiny_blip(folder) -> str:
    """A BLIP with random weights and a vocabulary of a few words, as a checkpoint of transformers."""
    transformers = import_transformers()
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += ["a", "an", "the", "red", "green", "blue", "round", "square", "image", "of", "with"]
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shape, "vocab_size": len(words), "encoder_hidden_size": 32, "max_position_embeddings": 32,
        "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
    }  # fmt: skip
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        vision = {**shape, "image_size": 32, "patch_size": 8}
        config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=32)
        transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
        tokenizer = transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})
        pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
        transformers.BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return str(folder)
