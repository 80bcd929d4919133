"""`tune` on one's own images. The verdict in situations whose truth is known: a model that knows eight colors, and
folders that it gains on, learns nothing from, pays for, or that hold test images twice."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.experiments.tuning import sensible
from steadyclip.methods import Recipe
from steadyclip.models.testing import write_tiny
from steadyclip.report import Verdict

COLORS = {
    "red": (220, 40, 40), "green": (40, 190, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40),
    "purple": (150, 50, 180), "cyan": (40, 210, 220), "orange": (240, 140, 30), "gray": (120, 120, 120),
}  # fmt: skip
SHADES = {"brown": (120, 70, 30), "pink": (250, 160, 190), "navy": (20, 20, 90), "olive": (110, 120, 30)}
SWAPPED = dict(zip(["red", "green", "blue", "yellow"], [*list(COLORS.values())[1:4], COLORS["red"]], strict=True))

Tune = Callable[..., tuple[Verdict, str]]


def draw(folder: Path, colors: dict[str, tuple[int, ...]], images: int = 30, noise: float = 25, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for name, color in colors.items():
        (folder / name).mkdir(parents=True)
        for i in range(images):
            pixels = np.clip(np.array(color) + rng.normal(0, noise, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "colors", COLORS, 20)


@pytest.fixture(scope="module")
def model(colors: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that names all eight colors right."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny("clip", folder / "tiny")
    model, method, data = sc.load(str(folder / "tiny")), sc.get_method("full"), sc.load_data(colors)
    sc.fit(model, method, data.task(), recipe=Recipe(learning_rate=3e-3, steps=80, warmup_steps=5))
    record = sc.evaluate(model, method, data.test_set())
    assert record.metrics
    assert record.metrics.top1 == 1
    method.merge(model)
    model.save(folder / "knows")
    return folder / "knows"


@pytest.fixture
def tune(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tune:
    def tuned(data: Path, row: str = "lora[learning_rate=3e-3,steps=60]", *more: str) -> tuple[Verdict, str]:
        words = ["tune", str(data), "--model", str(model), "--method", row, "--out", str(tmp_path / "run")]
        assert main([*words, "--device", "cpu", "--no-progress", *more]) == 0
        found = sc.verdict(tmp_path / "run")
        assert found is not None
        return found, capsys.readouterr().out

    return tuned


def test_a_clear_gain(tune: Tune, colors: Path, tmp_path: Path) -> None:
    found, said = tune(
        draw(tmp_path / "shades", SHADES, seed=3), "lora[learning_rate=3e-3,steps=60]", "--rest", str(colors)
    )
    assert (found.own.outcome, found.rest.outcome) == ("better", "not told apart")
    assert found.rest.before == 100
    assert "60 steps of 32 images, each image 32 times" in said
    assert "what it loses is measured on colors" in said
    assert said.index("plan:") < said.index("trained in") < said.index(found.sentences[0])
    assert (tmp_path / "run" / "report.html").exists()


def test_no_gain(tune: Tune, tmp_path: Path) -> None:
    """Labels that say nothing about the images."""
    found, _ = tune(draw(tmp_path / "noise", dict.fromkeys(["ant", "bee", "cow", "dog"], (128,) * 3), noise=90))
    assert found.own.outcome == "not told apart"
    assert "nothing was learned" in found.sentences[0]
    assert found.sentences[2].startswith("Keep the frozen model")


def test_a_gain_with_a_cost(tune: Tune, colors: Path, tmp_path: Path) -> None:
    """Names that mean something else here than in the world: the model cannot have both."""
    data = draw(tmp_path / "swapped", SWAPPED, seed=4)
    found, _ = tune(data, "lora[learning_rate=1e-2,steps=60]", "--rest", str(colors))
    assert (found.own.outcome, found.rest.outcome) == ("better", "worse")
    assert found.own.before == 0
    assert found.sentences[2].startswith("Use it only where nothing but these 4 classes is asked for")


def test_a_leak(tune: Tune, tmp_path: Path) -> None:
    """Test images that are there to train on too: as they are, saved again, or smaller. Their labels are noise, so that
    only memory could name them."""
    noise = draw(tmp_path / "noise", dict.fromkeys(["ant", "bee", "cow", "dog"], (128,) * 3), noise=90)
    leaky = tmp_path / "leaky"
    for name in ("ant", "bee", "cow", "dog"):
        for split in ("train", "test"):
            (leaky / split / name).mkdir(parents=True)
        for i in range(30):
            picture = (
                Image.open(noise / name / f"{i}.png").crop((0, 0, 8, 8)).resize((64, 64), Image.Resampling.BICUBIC)
            )
            picture.save(leaky / ("test" if i >= 24 else "train") / name / f"{i}.png")
            if i < 4:
                shutil.copy(leaky / "train" / name / f"{i}.png", leaky / "test" / name / f"copy-{i}.png")
            elif i < 8:
                picture.save(leaky / "test" / name / f"again-{i}.jpg", quality=90)
            elif i < 12:
                picture.resize((48, 48), Image.Resampling.BICUBIC).save(leaky / "test" / name / f"small-{i}.png")
    found, said = tune(leaky, "full[learning_rate=3e-3,steps=80]", "--no-half")
    assert "48 of 72 test images show the same as an image that is trained or validated on, such as test/ant/" in said
    assert found.own.images == 24
    assert found.own.outcome == "not told apart"
    assert found.notes[0].startswith("48 of 72 test images were left out")
    assert found.sentences[1].startswith("The rest was not measured")


def test_half_of_the_classes_says_what_is_lost(tune: Tune, tmp_path: Path, colors: Path) -> None:
    found, said = tune(colors, "lora[learning_rate=1e-2,steps=30]")
    assert "a second training on 4 of your classes, scored on the other 4" in said
    assert found.sentences[1].startswith(
        "On 4 of your classes that were held out of a second training with the same settings (24 images): 100.0"
    )
    assert found.notes[0].startswith("Base and new are of that second training")
    assert (tmp_path / "run" / "half" / "run.json").exists()
    whole, half = (sc.load_run(tmp_path / "run" / part)[2] for part in ("", "half"))
    assert (whole.task.subset, half.task.subset) == ("all", "base")
    assert whole.recipe
    assert half.recipe
    assert (whole.recipe["steps"], half.recipe["steps"]) == (30, 15)
    assert found.own.pairs[0][1].training == whole
    again, said = tune(colors, "lora[learning_rate=1e-2,steps=30]")
    assert again.sentences == found.sentences  # nothing was trained anew
    assert "  time     that of scoring: it was trained before\n" in said


def test_a_plan_trains_nothing(model: Path, colors: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["tune", str(colors), "--model", str(model), "--out", str(out), "--dry-run", "--no-progress"]) == 0
    said = capsys.readouterr().out
    assert "every image was read: 0 of 160 cannot be used" in said
    assert "  images   80 to train on, 32 to validate, 48 to test, of 8 classes\n" in said
    assert "  time     about " in said
    assert not out.exists()


def test_a_method_that_knows_only_its_own_names_has_no_rest(tune: Tune, colors: Path, tmp_path: Path) -> None:
    found, said = tune(colors, "linear-probe")
    assert "  rest     none: the method knows no names but those that it is trained on\n" in said
    assert "0 images in" not in said
    assert not (tmp_path / "run" / "half").exists()
    assert found.sentences[1] == "On the rest it cannot be used: it knows no names but those that it was trained on."
    assert "other names" not in found.sentences[2]


def test_it_says_when_it_is_not_sure(tune: Tune, colors: Path, tmp_path: Path) -> None:
    """As after `train`: validation images that are there suffice."""
    data = draw(tmp_path / "more", COLORS, 25, seed=8)
    _, said = tune(data, "linear-probe")
    assert "threshold" in said
    assert (tmp_path / "run" / "calibration.json").is_file()
    _, said = tune(data, "linear-probe")
    assert "threshold" not in said  # once is enough


def test_a_model_that_is_not_there_is_told_before_any_image_is_read(colors: Path, capsys) -> None:
    assert main(["tune", str(colors), "--model", "icons-smal", "--dry-run"]) == 1
    told = capsys.readouterr()
    assert "no model 'icons-smal'" in told.err
    assert "every image was read" not in told.out


def test_settings_of_the_row_win(model: Path, colors: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", str(colors), "--model", str(model), "--method", "lora[steps=2,precision=bf16]", "--dry-run"]
    assert main([*words, "--no-progress"]) == 0
    assert "  length   2 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "images", "steps"),
    [
        (Recipe(steps_per_shot=500), 640, 400),  # the published length of LoRA: 8,000 steps
        (Recipe(steps_per_shot=500), 20, 100),
        (Recipe(epochs=20), 50_000, 1563),  # one whole pass
        (Recipe(epochs=20), 5_000, 1000),
        (Recipe(epochs=3), 200, 100),
        (Recipe(epochs=3), 1600, 150),
    ],
)
def test_a_sensible_length(recipe: Recipe, images: int, steps: int) -> None:
    assert sensible(recipe, images, 40).total_steps(images, 40) == steps
    assert sensible(recipe, images, 40) == sensible(sensible(recipe, images, 40), images, 40)


def test_a_warm_up_ends_within_the_training() -> None:
    assert sensible(Recipe(epochs=20, warmup_steps=50), 64, 4).warmup_steps == 10


# ---- what cannot work


def _write(folder: Path, files: dict[str, Image.Image]) -> Path:
    for name, image in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return folder


def _noise(seed: int, size: tuple[int, int] = (20, 20), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


BAD = {
    "one class": ({"ant/0.png": 0, "ant/1.png": 1}, "has only one class ('ant'): two are needed"),
    "one image": ({"ant/0.png": 0, "bee/1.png": 1, "bee/2.png": 2}, "class 'ant' has one image only: two are needed"),
    "the same": ({f"{c}/{i}.png": 0 for c in ("ant", "bee") for i in range(4)}, "all images of bad are the same one"),
    "no folders": ({"0.png": 0, "1.png": 1}, "no class folders"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_work_is_said_in_one_line(case: str, model: Path, tmp_path: Path, capsys) -> None:
    files, line = BAD[case]
    data = _write(tmp_path / "bad", {name: _noise(seed) for name, seed in files.items()})
    assert main(["tune", str(data), "--model", str(model), "--out", str(tmp_path / "run")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert line in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_two_images_a_class_are_never_praised(tune: Tune, tmp_path: Path) -> None:
    """The model gets all of them right, and yet so few images show nothing."""
    found, _ = tune(draw(tmp_path / "few", SWAPPED, 2), "lora[learning_rate=1e-2,steps=40]", "--no-half")
    assert found.own.images == 4
    assert found.own.outcome == "not told apart"


def test_wrong_labels_in_part(tune: Tune, tmp_path: Path) -> None:
    """A fifth of the images of each class lies in the folder of another: a gain is a gain, and no better than that."""
    data = draw(tmp_path / "swapped", SWAPPED, seed=5)
    for name, other in itertools.pairwise([*SWAPPED, next(iter(SWAPPED))]):
        for i in range(0, 30, 5):
            (data / name / f"{i}.png").rename(data / other / f"wrong-{name}-{i}.png")
    found, said = tune(data, "lora[learning_rate=1e-2,steps=60]", "--no-half")
    assert "every image was read: 0 of 120 cannot be used" in said
    assert found.own.outcome == "better", found.text
    assert found.own.after < 95


def test_odd_images_and_names(tune: Tune, model: Path, tmp_path: Path, capsys) -> None:
    """Other scripts, sizes and modes, a broken image, and one that stands in two classes."""
    modes, files = ("RGB", "L", "P", "RGBA", "CMYK", "1"), {}
    for name in ("猫", "собака", "le château", "naïve_café"):
        for i in range(12):
            mode = modes[i % 6]
            suffix = "jpg" if mode == "CMYK" else "png"
            files[f"{name}/{i}.{suffix}"] = _noise(len(files), (8 + 7 * i, 60 - 4 * i), mode)
    data = _write(tmp_path / "odd", files)
    shutil.copy(data / "猫" / "0.png", data / "собака" / "twin.png")
    (data / "猫" / "broken.png").write_bytes(b"\x89PNG broken")
    words = ["tune", str(data), "--model", str(model), "--out", str(tmp_path / "run"), "--no-progress"]
    assert main(words) == 1
    told = capsys.readouterr()
    assert "unreadable: 猫/broken.png" in told.out  # all of them, before the error that names one
    assert " images of odd: 1 of 16 images cannot be read, more than the share max_unreadable=0.05" in told.err
    assert "(--max-unreadable)" in told.err
    assert not (tmp_path / "run").exists()  # known before anything is trained
    found, said = tune(data, "lora[steps=2]", "--no-half", "--max-unreadable", "0.2")
    assert "unreadable: 猫/broken.png" in said
    assert "images in several classes: 1, such as" in said
    assert found.own.outcome == "not told apart"


def test_a_thousand_classes(model: Path, tmp_path: Path, capsys) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 4, 4, 3), np.uint8)
    files = {f"class {i // 2}/{i % 2}.png": Image.fromarray(pixels[i]) for i in range(2000)}
    data = _write(tmp_path / "many", files)
    assert main(["tune", str(data), "--model", str(model), "--dry-run", "--no-progress"]) == 0
    assert "1000 to train on, 0 to validate, 1000 to test, of 1000 classes" in capsys.readouterr().out
