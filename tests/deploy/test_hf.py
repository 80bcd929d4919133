"""Exports for transformers: stock readers that know nothing of steadyclip say what the run says, or nothing is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.core.errors import ModelError, SteadyClipError
from steadyclip.deploy import export, hf_target
from steadyclip.deploy.checking import ExportFailed

LORA = "lora[steps=3,learning_rate=0.05]"


def stock(code: str, folder: Path) -> str:
    """What ``code`` prints in a process of its own, in ``folder``, that must not import steadyclip."""
    code = f"{code}\nimport sys\nassert 'steadyclip' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(folder: Path) -> list[str]:
    """The Python code of the model card."""
    return re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.S)


def test_the_code_of_the_card_says_what_the_run_says(run_of, data, photos: Path, tmp_path: Path) -> None:
    folder, picture = tmp_path / "export", photos / data.splits["test"].keys[3]
    info = export(run_of(), "hf", folder, data=data, check=9)
    (folder / "photo.jpg").write_bytes(picture.read_bytes())
    want = sc.Predictor(run_of())(picture, threshold="off")
    pipeline, rows, ours = blocks(folder)
    found = eval(stock(pipeline, folder))
    assert [answer["label"] for answer in found] == list(want.names)
    assert [answer["score"] for answer in found] == pytest.approx(want.probabilities, abs=1e-5)
    label, probability = stock(rows, folder).rsplit(maxsplit=1)
    assert (label, float(probability)) == (want.label, pytest.approx(want.score, abs=1e-5))
    exec(ours.replace('"."', repr(str(folder))).replace('"photo.jpg"', repr(str(picture))))
    assert info.checks["transformers"]["equal_first_names"] == 9
    assert info.checks["transformers"]["stock_processor_smallest_cosine"] > 0.9999
    assert info.checks["pipeline"]["equal_first_names"] == 4


@pytest.mark.parametrize(
    ("row", "family", "names"),
    [(LORA, "siglip", "any"), (LORA, "siglip2", "any"), ("full[steps=2]", "clip", "any"),
     ("linear-probe", "clip", "fixed"), ("coop[steps=2]", "clip", "fixed"), ("tcp[steps=1]", "clip", "fixed"),
     ("taskres[steps=2]", "siglip", "fixed"),
     ("zero-shot", "clip", "any")],
)  # fmt: skip
def test_read_again_it_says_the_same(
    row: str, family: str, names: str, run_of, data, photos: Path, tmp_path: Path
) -> None:
    export(run_of(row, family), "hf", tmp_path / "export", data=data, check=8)
    pictures = [photos / key for key in data.splits["test"].keys]
    before, after = (sc.Predictor(source)(pictures) for source in (run_of(row, family), tmp_path / "export"))
    for a, b in zip(before, after, strict=True):
        assert a.names == b.names
        assert np.allclose(a.probabilities, b.probabilities, atol=1e-5)
    about = json.loads((tmp_path / "export" / "classifier.json").read_text(encoding="utf-8"))
    assert about["names"] == names
    again = export(tmp_path / "export", "hf", tmp_path / "again", data=data, check=8)  # an export is a source, too
    assert again.checks["transformers"]["equal_first_names"] == 8


def test_half_precision_and_other_names(run_of, data, tmp_path: Path) -> None:
    info = export(run_of(), "hf", tmp_path / "export", data=data, dtype="fp16", names=["day", "night"], check=8)
    tensors = load_file(tmp_path / "export" / "model.safetensors")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"float16"}
    assert info.checks["transformers"]["smallest_cosine"] >= 0.9999
    assert sc.Predictor(tmp_path / "export").names == ("day", "night")


@pytest.mark.parametrize(
    ("row", "line"),
    [("dra[steps=1]", "adapts the image tower by token_rank, which cannot be folded .* take --to onnx"),
     ("tip-adapter", "apart by a cache of training images, which is no linear function .* take --to onnx"),
     ("cocoop[steps=1]", "makes other class texts for each image; name images by the run itself")],
)  # fmt: skip
def test_what_cannot_be_folded(row: str, line: str, run_of, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=line):
        export(run_of(row), "hf", tmp_path / "export", check=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["visual_projection", "text_projection", "norm1.bias", "classifier"])
def test_a_wrong_weight_is_found_and_nothing_is_left(part: str, run_of, data, tmp_path: Path, monkeypatch) -> None:
    def spoiled(folder: Path, *args) -> dict:
        file = folder / ("classifier.safetensors" if part == "classifier" else "model.safetensors")
        tensors = load_file(file)
        name = "weight" if part == "classifier" else next(name for name in tensors if part in name)
        tensors[name] = tensors[name].copy()
        tensors[name][0] *= 1.01 if tensors[name].ndim > 1 else 1.5
        save_file(tensors, file, {"format": "pt"})
        return honest(folder, *args)

    honest = hf_target.read_back
    monkeypatch.setattr(hf_target, "read_back", spoiled)
    with pytest.raises(ExportFailed, match=r"read back by transformers.*nothing was written"):
        export(run_of(), "hf", tmp_path / "export", data=data, check=8)
    assert not list(tmp_path.iterdir())


def test_no_file_names_a_path_or_an_image(run_of, data, tmp_path: Path) -> None:
    export(run_of(), "hf", tmp_path / "export", data=data, check=3)
    key = data.splits["train"].keys[0].split("/")[1]
    for path in (tmp_path / "export").rglob("*"):
        content = path.read_bytes()
        for secret in ("secret-folder", str(tmp_path), ".unfinished", str(Path.home()), f"/{key}"):
            assert secret.encode() not in content, (path, secret)
    info = json.loads((tmp_path / "export" / "export.json").read_text())
    assert info["model"]["name"] == "model-clip"
    assert set(info["files"]) == {path.name for path in (tmp_path / "export").iterdir()} - {"export.json"}


def test_a_folder_that_is_there(run_of, data, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep me")
    with pytest.raises(SteadyClipError, match=r"has no export\.json, so it is not replaced"):
        export(run_of(), "hf", tmp_path / "mine", force=True, check=2)
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep me"
    words = ["export", str(run_of()), "--to", "hf", "--out", str(tmp_path / "mine" / "new"), "--check", "2"]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert "2 of 2 first names equal on made images" in captured.out
    assert "name --data to compare on real ones" in captured.err
    assert main(words) == 1
    assert "is there already: name another, or replace it with --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    for more, line in ((["--int8"], "--int8 belongs to --to onnx, not"), (["--check", "0"], "--check must be 1")):
        assert main([*words, *more, "--force"]) != 0
        assert line in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_in_the_middle_it_leaves_nothing(number: int, run_of, tmp_path: Path) -> None:
    out = tmp_path / "export"
    code = (
        "import sys, time\nfrom steadyclip.cli import main\nfrom steadyclip.deploy import hf_target\n"
        "def wait(*args):\n    print('written', flush=True)\n    time.sleep(60)\n"
        "hf_target.read_back = wait\nsys.exit(main(sys.argv[1:]))"
    )
    words = ["export", str(run_of()), "--to", "hf", "--out", str(out), "--check", "2", "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert [path.name.endswith(".unfinished") for path in tmp_path.iterdir()] == [True]
        os.kill(process.pid, number)
        process.wait(timeout=20)
    assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    time.sleep(0.01)
    if number == signal.SIGKILL:  # nobody can clear up at once; the next export does
        export(run_of(), "hf", out, check=2)
        assert [path.name for path in tmp_path.iterdir()] == ["export"]
    else:
        assert not list(tmp_path.iterdir())
