"""The command line as people use it: the main path, then their mistakes. Each mistake is one line and an exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadyclip.cli import COMMANDS, main
from steadyclip.models.testing import write_tiny

COLORS = {
    "red_thing": (220, 30, 30),
    "green_thing": (30, 200, 40),
    "blue_thing": (30, 40, 220),
    "gray_thing": (90,) * 3,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of ten noisy images each, told apart by color."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir()
        for i in range(10):
            pixels = np.clip(np.array(color) + rng.normal(0, 25, (40, 48, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny("clip", folder)
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished LoRA run."""
    out = tmp_path_factory.mktemp("runs") / "lora"
    assert main(train(photos, model, out)) == 0
    return out


def train(photos: Path, model: Path, out: Path, *more: str) -> list[str]:
    row = "lora[steps=4,learning_rate=0.01]"
    words = f"train --data {photos} --model {model} --method {row} --shots 4 --out {out}"
    return [*words.split(), "--no-progress", *more]


def test_train_evaluate_predict_report(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--data", str(photos)]) == 0
    assert "top-1" in capsys.readouterr().out
    (record,) = (run / "records").glob("*.json")
    content = json.loads(record.read_text())
    assert content["method"]["name"] == "lora"
    assert content["data"]["images"] == 12  # 30 % of ten, four classes
    assert content["precision"] == "fp32"
    picture = str(photos / "red_thing" / "0.png")
    assert main(["predict", str(run), picture, "--top", "2", "--json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    assert prediction["path"] == picture
    assert len(prediction["names"]) == 2
    assert set(prediction["names"]) <= {name.replace("_", " ") for name in COLORS}
    page = run / "page.html"
    assert main(["report", str(run), "--out", str(page), "--markdown"]) == 0
    assert "| lora |" in capsys.readouterr().out
    assert page.read_text().lower().startswith("<!doctype html>")


def test_the_same_command_again_trains_nothing(run: Path, photos: Path, model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.glob("*.safetensors")}
    assert main(train(photos, model, run)) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("*.safetensors")} == before


def test_evaluation_leaves_out_what_was_trained_on(run: Path, photos: Path) -> None:
    main(["evaluate", str(run), "--data", str(photos)])
    split = json.loads((run / "split.json").read_text())
    assert len(split["train"]) == 16
    record = json.loads(next((run / "records").glob("*.json")).read_text())
    assert record["data"]["images"] + len(split["train"]) + len(split["val"]) <= 40


def test_base_run_is_scored_on_base_and_new(photos: Path, model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "base"
    assert main(train(photos, model, out, "--subset", "base")) == 0
    assert main(["evaluate", str(out), "--data", str(photos)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"base.*new.*H", printed)
    assert len(list((out / "records").glob("*.json"))) == 2


def test_averages_of_weights(photos: Path, model: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "full"
    words = [word.replace("lora", "full") for word in train(photos, model, out)]
    assert main(words) == 0
    assert main(["evaluate", str(out), "--data", str(photos), "--wise-curve"]) == 0
    records = [json.loads(path.read_text()) for path in (out / "records").glob("*.json")]
    assert sorted(record["wise_alpha"] for record in records) == [tenths / 10 for tenths in range(11)]
    assert "full, alpha 0.3" in capsys.readouterr().out
    assert main(["evaluate", str(out), "--data", str(photos), "--wise-alpha", "val"]) == 0
    assert "chosen on validation images" in capsys.readouterr().out


def test_sample_prints_the_files_of_the_run(run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "sample", "--data", str(photos), "--shots", "4", "--seed", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    saved = json.loads((run / "split.json").read_text())
    assert printed["train"] == saved["train"]
    assert printed["val"] == saved["val"]
    assert all(not Path(key).is_absolute() for key, *_ in printed["train"])


def test_check_finds_what_is_wrong(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data", str(photos)]) == 0
    assert "every image can be read, none is there twice" in capsys.readouterr().out
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8), (i * 60, 0, len(name))).save(tmp_path / name / f"{i}.png")
    (tmp_path / "a" / "broken.png").write_bytes(b"")
    assert main(["data", "check", "--data", str(tmp_path)]) == 1  # both classes have the same images
    printed = capsys.readouterr().out
    assert "unreadable: a/broken.png" in printed
    assert "the same image twice" in printed


def test_methods_and_overview(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    overview = capsys.readouterr().out
    assert all(f"\n  {name}" in overview for name in COMMANDS)
    assert main(["methods"]) == 0
    assert "zero-shot" in capsys.readouterr().out
    assert main(["methods", "lora"]) == 0
    printed = capsys.readouterr().out
    assert "dropout" in printed
    assert "learning_rate=0.0002" in printed
    assert "mergeable: true, trains the model's own weights: false" in printed


def test_a_row_reaches_the_run(run: Path) -> None:
    content = json.loads((run / "run.json").read_text())
    assert content["recipe"]["steps"] == 4
    assert content["recipe"]["learning_rate"] == 0.01


def test_train_takes_what_was_chosen_for_a_model(photos: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    from steadyclip.experiments import settings
    from steadyclip.methods import Recipe

    choices = {"lora": settings.Choice(Recipe(steps=2), {"rank": 3})}
    chosen = settings.Settings("chosen for it", choices, {"cutout": 0.5})
    monkeypatch.setattr(settings, "settings_for", lambda model, recipes: chosen)
    write_tiny("clip", tmp_path / "it")
    words = f"train --data {photos} --model {tmp_path}/it --method lora[alpha=2] --shots 1 --no-progress --out"
    assert main([*words.split(), str(tmp_path / "run")]) == 0
    assert "lora[alpha=2]: recipes chosen for it" in capsys.readouterr().out
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (content["method"]["knobs"]["rank"], content["method"]["knobs"]["alpha"]) == (3, 2.0)
    assert (content["recipe"]["steps"], content["config"]["cutout"]) == (2, 0.5)


def test_a_method_of_a_file(photos: Path, model: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "my_lora.py"
    file.write_text(
        "from steadyclip.adapters import LowRank\nfrom steadyclip.methods import Method, Recipe\n\n"
        "class Mine(Method):\n    name = 'my-lora'\n    summary = 'mine'\n    adapters = (LowRank(),)\n"
        "    recipe = Recipe(steps=2)\n"
    )
    out = tmp_path / "run"
    words = f"train --data {photos} --model {model} --method {file}:Mine[rank=3] --shots 1 --no-progress --out {out}"
    mine = f"--plugin {file}:Mine"

    def fresh(words: str) -> subprocess.CompletedProcess[str]:  # the method is registered in the process that read it
        return subprocess.run([sys.executable, "-m", "steadyclip", *words.split()], capture_output=True, text=True)

    trained = fresh(words)
    assert trained.returncode == 0
    assert f"next: steadyclip evaluate {out} --data {photos} {mine}\n" in trained.stdout
    refused = fresh(f"evaluate {out} --data {photos}")
    assert refused.returncode != 0
    assert "my-lora" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert fresh(f"evaluate {out} --data {photos} {mine}").returncode == 0
    assert fresh(f"predict {out} {photos}/red_thing/0.png {mine}").returncode == 0
    assert main(["methods", f"{file}:Mine"]) == 0
    assert "comes with the file my_lora.py" in capsys.readouterr().out


def test_a_method_that_needs_no_training(photos: Path, model: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "zero-shot", "--data", str(photos), "--model", str(model)]) == 0
    assert "zero-shot" in capsys.readouterr().out
    (record,) = (tmp_path / "runs").rglob("*.json")
    assert record.parent.parent.name == f"{photos.name}-zero-shot-{model.name}"
    content = json.loads(record.read_text())
    assert (content["method"]["name"], content["training"], content["data"]["images"]) == ("zero-shot", None, 12)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("trian", 2, "unknown command 'trian'. Did you mean 'train'?"),
        ("train --data {photos} --method lroa", 2, "unknown method 'lroa'. Did you mean 'lora'?"),
        ("train --data {photos} --method lora[rnak=3]", 2, "a setting of its training. Did you mean 'rank'?"),
        ("train --data {photos} --method lora[rank", 2, "brackets and quotes in pairs"),
        ("train --data {photos} --method lora,full", 2, "--method takes one method, not 2"),
        ("train --data {photos} --method @nowhere.txt", 2, "the file of rows nowhere.txt cannot be read: No such file"),
        ("train --data {photos} --method zero-shot[epochs=3]", 2, "nothing is trained by gradient steps, epochs"),
        ("train --data {photos} --method lora[epochs=3,steps=3]", 2, "exactly one of steps, steps_per_shot and epochs"),
        ("train --data {photos} --method lora[rank=0]", 2, "knob rank=0 of 'low_rank' must be at least 1"),
        ("train --data {photos} --model {model} --method arf[captions=no.parquet]", 2, "captions=no.parquet of 'arf'"),
        ("train --data {photos} --method {photos}/mine.py:Mine", 2, "there is no file {photos}/mine.py"),
        ("evaluate nowhere --data {photos}", 2, "no run folder 'nowhere', and as a method: unknown method 'nowhere'"),
        ("evaluate lora --data {photos} --model {model}", 2, "lora must be trained first, by `steadyclip train`"),
        ("evaluate zero-shot --data {photos} --model {model} --plugin no.py:Mine", 2, "there is no file no.py"),
        ("evaluate zero-shot --data {photos}", 2, "zero-shot is scored on a model as it is: name one with --model"),
        ("evaluate zero-shot --data {photos} --model {model} --wise-alpha val", 2, "zero-shot trains no weights"),
        ("evaluate {run} --data {photos} --plugin no.py:Mine", 2, "there is no file no.py"),
        ("train --data {photos} --shots 0", 2, "shots must be 1 or more"),
        ("train --data {photos}/nowhere --shots 1", 1, "no folder, file or built-in data"),
        ("train --data icosn --shots 1", 1, "Did you mean 'icons'?"),
        ("train --data {photos} --model {photos} --shots 1", 1, "config.json"),
        ("evaluate {photos} --data {photos}", 1, "run.json"),
        ("evaluate {run} --data {photos} --domain snow", 1, "unknown domain 'snow'"),
        ("evaluate {run} --data {photos} --wise-alpha 0.5", 1, "adapters were trained, not its own weights"),
        ("evaluate {run} --data {photos} --wise-alpha 0.5 --wise-curve", 2, "not both"),
        ("predict {run}", 2, "name at least one image"),
        ("predict {run} {photos}/nope.png", 1, "nope.png"),
        ("predict {run} {run}/run.json", 1, "run.json"),
        ("predict {run} {photos}/red_thing/0.png --top 0", 2, "--top must be 1 or more"),
        ("report {photos}", 1, "no evaluation record found"),
        ("methods lroa", 2, "Did you mean 'lora'?"),
        ("demo --methods zero-shto", 2, "Did you mean 'zero-shot'?"),
    ],
)
def test_mistakes(
    words: str, code: int, line: str, photos: Path, model: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.format(photos=photos, model=model, run=run).split()) == code
    error = capsys.readouterr().err
    assert line.format(photos=photos) in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "train --data x --epochs 5",
            'write --method "lora[epochs=5]" instead of --epochs: see docs/rows.md.',
        ),
        (
            "train --data x --method orthcr[l1=2] --learning-rate=1e-3 --knobs side=0.3 --no-augment",
            'write --method "orthcr[l1=2,learning_rate=1e-3,side=0.3,augment=off]" instead of --learning-rate,',
        ),
        (
            "train --data x --lr 1e-3 --rank 4",
            'write --method "lora[learning_rate=1e-3,rank=4]" instead of --lr, --rank: see docs/rows.md.',
        ),
        (
            "bench base-to-new --methods zero-shot --rank 4",
            "--rank is a knob of lora, bottleneck, ",
        ),
        ("tune x --output_dir y", "there is no --output_dir here. Did you mean --out?"),
        ("train --data x --fp16", "there is no --fp16 here. Did you mean --precision bf16?"),
        ("tune --data photos", "there is no --data here: write photos without it, before all else."),
        ("predict --model=m x.png --names a b", "there is no --model here: write m without it, before all else."),
        ("predict m --data photos --names a b", "there is no --data here: write photos without it."),
        ("predict m --names a b x.png", "'x.png' was read as a name: images stand before --names."),
        ("val runs/x", "unknown command 'val'. Did you mean 'evaluate'?"),
        ("finetune x", "unknown command 'finetune'. Did you mean 'tune'?"),
        (
            "train --data x --shotz 4",
            "Unrecognized options: --shotz, 4. Did you mean --shots? See steadyclip train --help",
        ),
        (
            "train --data x --shots four",
            "--shots: must be INT, not 'four'. See",
        ),
        (
            "train --data x --subset bass",
            "invalid choice 'bass' for argument '--subset'. Expected one of ('all', 'base'",
        ),
        ("data chek", "Unrecognized options: chek. Available subcommands: list, check, sample, build. See"),
        ("bench base-to-new --seeds one", "--seeds: cannot be 'one'. See"),
        ("bench few-shot --shots 1 two", "--shots: cannot be '1', 'two'. See"),
        ("bench base-to-now", "invalid choice 'base-to-now' for argument 'protocol'. Expected one of ('base-to-new'"),
    ],
)
def test_a_flag_that_cannot_be_read_is_one_line(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {line}")
    assert error.count("\n") == 1


def test_a_checkpoint_of_another_model_is_refused(run: Path, photos: Path, tmp_path: Path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    write_tiny("clip", other, seed=5)
    moved = tmp_path / "run"
    moved.mkdir()
    content = json.loads((run / "run.json").read_text())
    content["model"]["name"] = str(other)
    del content["checksum"]
    (moved / "run.json").write_text(json.dumps(content))
    for name in ("split.json", "trained.safetensors"):
        (moved / name).write_bytes((run / name).read_bytes())
    assert main(["evaluate", str(moved), "--data", str(photos)]) == 1
    assert "was trained on other weights" in capsys.readouterr().err


def test_help_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\nimport steadyclip\nfrom steadyclip.cli import main\n"
        "for words in ([], *([c, '--help'] for c in ('demo', 'train', 'evaluate', 'predict', 'data', 'pretrain'))):\n"
        "    try: main(words)\n    except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'torchvision', 'matplotlib', 'pyarrow'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
