"""Runs of tiny models on four colors, with names that are awkward to write."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import steadyclip as sc
from steadyclip.data import ImageData
from steadyclip.models.testing import write_tiny
from steadyclip.training import fit
from steadyclip.training.config import TrainConfig

COLORS = {'red "rot"': (220, 30, 30), "grün, green": (30, 200, 40), "blue's {}": (30, 40, 220), "gray": (90, 90, 90)}
TEMPLATE = "a drawing of a {}."


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-six noisy images of each color, of several sizes; 20 % of them are validation images."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir()
        for i in range(26):
            size = (40 + i, 48, 3)
            pixels = np.clip(np.array(color) + rng.normal(0, 60, size), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="session")
def data(photos: Path) -> ImageData:
    return sc.load_data(photos, templates=TEMPLATE)


@pytest.fixture(scope="session")
def run_of(data: ImageData, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a run, made once for each (row, family)."""
    made: dict[tuple[str, str], Path] = {}
    root = tmp_path_factory.mktemp("secret-folder")
    task = data.task(seed=1)

    def run(row: str = "lora[steps=3,learning_rate=0.05]", family: str = "clip") -> Path:
        if (row, family) not in made:
            folder = root / f"model-{family}"
            if not folder.is_dir():
                folder.mkdir()
                write_tiny(family, folder)
            parsed = sc.parse_row(row)
            out = root / f"run-{len(made)}"
            config = TrainConfig(out=out, progress=False)
            fit(sc.load(folder), parsed.method, task, recipe=parsed.recipe, config=config)
            made[row, family] = out
        return made[row, family]

    return run


@contextlib.contextmanager
def serving(run: Path, *more: str, token: str = "") -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The command in a process of its own, on a free port."""
    words = [sys.executable, "-m", "steadyclip", "serve", str(run), "--port", "0", *more]
    environment = {**os.environ, "STEADYCLIP_TOKEN": token, "OMP_NUM_THREADS": "1"}
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if found := re.search(r"listening at http://127\.0\.0\.1:(\d+)", line):
                    yield int(found[1]), process
                    break
        finally:
            if process.poll() is None:
                process.terminate()
        code = process.wait(timeout=20)
        errors.seek(0)
        assert (code, errors.read()) == (0, "")  # whatever was sent: no traceback, no token, no picture in the log
