"""Every kind of input that the product reads, damaged, and read by the function that commands read it with."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import random
import select
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from campaign import damage
from campaign.process import PATIENCE, Watch, kill
from campaign.world import CLASSES, METHOD, png
from steadyclip import load_data
from steadyclip.anchors import Pool, embed_pool, read_anchors, read_captions
from steadyclip.anchors.journal import Journal
from steadyclip.anchors.pool import KINDS
from steadyclip.cli import check_options, parse
from steadyclip.commands.flags import config_text
from steadyclip.core.errors import SteadyClipError
from steadyclip.data.decode import UnreadableImage, decode
from steadyclip.data.images import read_image
from steadyclip.data.task import read_split
from steadyclip.deploy import Predictor
from steadyclip.deploy.embedding import Embedding, search
from steadyclip.deploy.listing import find_pictures
from steadyclip.deploy.opening import open_source
from steadyclip.deploy.results import done_before
from steadyclip.evaluation.records import Record, Run
from steadyclip.experiments.rows import parse_row
from steadyclip.models import load
from steadyclip.training import load_run
from steadyclip.training.checkpoint import newest_checkpoint, read_tensors

MOST_MEMORY = 1500
"""MB that may be taken: the libraries take most of it."""

Try = Callable[[random.Random], None]
"""Damages one input and reads it; raises what the product raises."""


def kinds(world: Path, own: Path) -> Iterator[tuple[str, float, Try]]:
    """Name, share of the inputs, and what tries one; files are written to ``own``."""
    images = [png(1), png(2, "JPEG"), png(3, "GIF"), png(4, "BMP"), png(5, "WEBP"), png(6, "TIFF"), png(7, "PPM")]
    yield "images", 0.25, lambda rng: decode(damage.of_bytes(rng.choice(images), rng), "image") and None
    yield "CSV", 0.08, _file(world / "table.csv", world / "damaged.csv", load_data)
    yield "parquet", 0.08, _file(world / "data.parquet", own / "d.parquet", lambda path: load_data(path).check())
    yield "split files of the field", 0.03, _zhou(world)
    yield "tar shards", 0.02, _shard(world, own)
    yield "run.json", 0.08, _json(world / "run/run.json", own / "run.json", Run.read)
    yield "split.json", 0.05, _json(world / "run/split.json", own / "split.json", read_split)
    record = next((world / "run/records").glob("*.json"))
    yield "records", 0.08, _json(record, own / "record.json", Record.read)
    yield "pools", 0.04, _pool(world, own)
    yield "captions", 0.03, _file(world / "captions.parquet", own / "c.parquet", read_captions)
    yield (
        "anchors",
        0.03,
        _file(world / "anchors.parquet", own / "a.parquet", lambda path: list(read_anchors(path).keys)),
    )
    yield "journals", 0.02, _journal(own)
    yield "safetensors", 0.05, _file(world / "run/trained.safetensors", own / "t.safetensors", read_tensors)
    yield "checkpoints", 0.01, _checkpoint(world, own)
    yield "model folders", 0.01, _model(world, own)
    yield "run folders", 0.005, _run(world, own)
    yield "exports", 0.005, _export(world, own)
    yield "folders of features", 0.03, _features(world, own)
    yield "tables of answers", 0.03, _answers(world, own)
    yield "lists of images", 0.02, _list(world, own)
    yield "config files", 0.03, _config(world, own)
    yield "rows", 0.02, lambda rng: parse_row(damage.of_bytes(METHOD.encode(), rng).decode(errors="replace")) and None
    yield "command lines", 0.005, _words(world, own)


def tried(name: str, numbers: range, one: Try, seed: int) -> tuple[list[str], float, float]:
    """Try the inputs of these numbers in a process of their own; what failed, its peak memory in MB, its seconds."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        os.close(read)
        told = os.fdopen(write, "w")
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        torch.set_num_threads(1)
        for number in numbers:
            told.write(f"at {number}\n")
            told.flush()
            signal.setitimer(signal.ITIMER_PROF, PATIENCE)
            try:
                one(random.Random(f"{seed}/{name}/{number}"))
            except (SteadyClipError, SystemExit):
                pass
            except BaseException as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
                told.write(f"failed number {number}: {what} ({Path(where.filename).name}:{where.lineno})\n")
        told.write("end\n")
        told.flush()
        os._exit(0)
    os.close(write)
    watch, said, hangs = Watch(pid, math.inf), b"", ""
    while True:
        if select.select([read], [], [], 0.5)[0]:
            if not (part := os.read(read, 2**16)):
                break
            said += part
        elif not hangs and (hangs := watch.hangs()):
            kill(pid)
    os.close(read)
    _, status, usage = os.wait4(pid, 0)
    lines, memory = said.decode(errors="replace").splitlines(), usage.ru_maxrss / 1024
    failed = [line.removeprefix("failed ") for line in lines if line.startswith("failed")]
    if not lines or lines[-1] != "end":
        last = lines[-1] if lines else "the start"
        failed.append(f"the process ended by {os.waitstatus_to_exitcode(status)} {last} {hangs}")
    if memory > MOST_MEMORY:
        failed.append(f"numbers {numbers.start} to {numbers.stop}: took {memory:,.0f} MB")
    return failed, memory, usage.ru_utime + usage.ru_stime


def _file(source: Path, place: Path, reading: Callable[[Path], Any]) -> Try:
    content = source.read_bytes()

    def one(rng: random.Random) -> None:
        place.write_bytes(damage.of_bytes(content, rng))
        reading(place)

    return one


def _json(source: Path, place: Path, reading: Callable[[Path], Any]) -> Try:
    content = json.loads(source.read_bytes())

    def one(rng: random.Random) -> None:
        place.write_bytes(damage.of_json(content, rng))
        reading(place)

    return one


def _any_file(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(file for file in folder.rglob("*") if file.is_file()))


def _one_damaged(source: Path, copy: Path, rng: random.Random) -> None:
    """A copy of a folder with one file damaged."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    file = _any_file(copy, rng)
    content = file.read_bytes()
    odd = damage.of_json(json.loads(content), rng) if file.suffix == ".json" else damage.of_bytes(content, rng)
    file.write_bytes(odd)


def _pool(world: Path, own: Path) -> Try:
    def read(folder: Path) -> tuple[bytes, list[str]]:
        pool = Pool.open(folder)
        features = b"".join(arrays[kind].tobytes() for kind in KINDS for _, arrays in pool.chunks((kind,), 8))
        return features, [pair.text for pair in pool.pairs([0, 5])]

    whole = read(world / "pool")

    def one(rng: random.Random) -> None:
        _one_damaged(world / "pool", own / "pool", rng)
        if read(own / "pool") != whole:
            raise AssertionError("a damaged pool was believed")

    return one


def _shard(world: Path, own: Path) -> Try:
    content, model = (world / "shard.tar").read_bytes(), load(world / "model")

    def one(rng: random.Random) -> None:
        (own / "shard.tar").write_bytes(damage.of_bytes(content, rng))
        shutil.rmtree(own / "shards", ignore_errors=True)
        embed_pool(model, [own / "shard.tar"], own / "shards", workers=1, allow_failed=1, log=lambda line: None)

    return one


def _journal(own: Path) -> Try:
    journal = Journal(own / "journal.jsonl", list[dict[str, Any]])
    journal.path.unlink(missing_ok=True)
    for i in range(5):
        journal.append([{"path": f"{i}.png", "caption": "a dog"}])
    content = journal.path.read_bytes()

    def one(rng: random.Random) -> None:
        journal.path.write_bytes(damage.of_bytes(content, rng))
        whole = [{"path": f"{i}.png", "caption": "a dog"} for i in range(5)]
        found = [line for batch in journal for line in batch]
        if found != whole[: len(found)]:
            raise AssertionError(f"a damaged journal was believed: {found}")

    return one


def _checkpoint(world: Path, own: Path) -> Try:
    from steadyclip.training.checkpoint import save_checkpoint

    folder = own / "checkpoints-made"
    shutil.rmtree(folder, ignore_errors=True)
    for step in (1, 2):
        save_checkpoint(folder, step, {"trained": {"a": torch.full((8,), float(step))}}, {"losses": [step]})

    def one(rng: random.Random) -> None:
        copy = own / "checkpoints"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        file = _any_file(copy / "step-00000002", rng)
        before = file.read_bytes()
        file.write_bytes(damage.of_bytes(before, rng))
        found = newest_checkpoint(copy)
        if found is None or (found.step == 2 and file.read_bytes() != before and file.suffix == ".safetensors"):
            raise AssertionError(f"after damage to {file.name} the checkpoint taken is {found and found.step}")

    return one


def _model(world: Path, own: Path) -> Try:
    def one(rng: random.Random) -> None:
        _one_damaged(world / "model", own / "model", rng)
        load(own / "model").encode_text(["a dog"])

    return one


def _run(world: Path, own: Path) -> Try:
    whole = load_run(world / "run")[0].trained_state()

    def one(rng: random.Random) -> None:
        _one_damaged(world / "run", own / "run", rng)
        trained = load_run(own / "run")[0].trained_state()
        if trained.keys() != whole.keys() or not all(trained[name].equal(whole[name]) for name in whole):
            raise AssertionError("a damaged run was believed")

    return one


def _zhou(world: Path) -> Try:
    rows = [[f"{name}/{i}.png", label, name] for label, name in enumerate(CLASSES) for i in range(6)]
    content, file = {"train": rows[::3], "val": rows[1::3], "test": rows[2::3]}, world / "photos/split_zhou_Photos.json"

    def one(rng: random.Random) -> None:
        file.write_bytes(damage.of_json(content, rng))
        try:
            load_data(file)
        finally:
            file.unlink()

    return one


def _export(world: Path, own: Path) -> Try:
    whole = open_source(world / "export")
    image = Image.new("RGB", (24, 24), "red")
    answer = Predictor(world / "export")(image).probabilities

    def one(rng: random.Random) -> None:
        _one_damaged(world / "export", own / "export", rng)
        predictor = Predictor(own / "export")
        found = predictor(image).probabilities
        # the model card and the record of the export are for people; other weights are another model, and are called so
        if predictor.engine.weights == whole.weights and not np.allclose(found, answer, atol=1e-5):
            raise AssertionError("a damaged export was believed")

    return one


def _features(world: Path, own: Path) -> Try:
    folder = world / "features"
    weights, query_D = Embedding.read(folder / "embedding.json").weights, np.load(folder / "img_emb/img_emb_0.npy")[0]
    whole = search(folder, query_D, weights)

    def one(rng: random.Random) -> None:
        _one_damaged(folder, own / "features", rng)
        if search(own / "features", query_D, weights) != whole:
            raise AssertionError("a damaged folder of features was believed")

    return one


def _answers(world: Path, own: Path) -> Try:
    import csv

    lines = (world / "answers.csv").read_text().splitlines(keepends=True)
    content = "".join(lines).encode()
    row = next(csv.DictReader(lines))
    top = sum(name.startswith("label_") for name in row)

    def one(rng: random.Random) -> None:
        (own / "answers.csv").write_bytes(damage.of_bytes(content, rng))
        done_before(own / "answers.csv", (), top, row["model"])

    return one


def _list(world: Path, own: Path) -> Try:
    paths = "\n".join(f"{world}/photos/{name}/{i}.png" for name in CLASSES for i in range(3)).encode()
    tables = {".txt": paths, ".csv": b"path\n" + paths}

    def one(rng: random.Random) -> None:
        ending = rng.choice(sorted(tables))
        file = own / f"list{ending}"
        file.write_bytes(damage.of_bytes(tables[ending], rng))
        for path in find_pictures([str(file)], recursive=True, stdin=io.StringIO()):
            with contextlib.suppress(UnreadableImage):
                read_image(path)

    return one


def _config(world: Path, own: Path) -> Try:
    from campaign.world import COMMANDS

    words = COMMANDS["train"].words(world, own / "words")
    content = config_text("train", parse(words)).encode()

    def one(rng: random.Random) -> None:
        file = own / f"config.{rng.choice(('yaml', 'yaml', 'toml'))}"
        file.write_bytes(damage.of_bytes(content, rng))
        check_options(parse(["train", "--config", str(file)]))

    return one


def _words(world: Path, own: Path) -> Try:
    from campaign.world import COMMANDS

    def one(rng: random.Random) -> None:
        name = rng.choice(sorted(COMMANDS))
        words = damage.of_words(COMMANDS[name].words(world, own / "words"), rng)
        if words[0].startswith("-"):
            return
        check_options(parse(words))

    return one
