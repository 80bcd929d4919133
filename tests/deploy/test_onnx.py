"""Exports for onnxruntime: any batch, any method but those whose texts depend on the image, and without torch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import steadyclip as sc
from steadyclip.cli import main
from steadyclip.core.errors import DataError, ModelError, UsageError
from steadyclip.deploy import export, onnx_graphs
from steadyclip.deploy.checking import ExportFailed

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def graph(run_of, data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier of a LoRA run."""
    out = tmp_path_factory.mktemp("onnx") / "export"
    info = export(run_of(), "onnx", out, data=data, check=9, only="classifier", int8=True)
    assert info.checks["onnxruntime"]["equal_first_names"] == 9
    assert info.checks["onnxruntime, int8"]["smallest_cosine"] > 0.99
    return out


def test_the_same_answers_in_any_batch(graph: Path, run_of, data, photos: Path) -> None:
    pictures = [photos / key for key in data.splits["train"].keys] * 2
    torch, onnx = sc.Predictor(run_of()), sc.Predictor(graph, backend="onnx")
    assert onnx.names == torch.names
    for number, size in ((1, 1), (2, 2), (3, 3), (65, 65), (7, 4)):
        for want, found in zip(
            torch(pictures[:number], top=4), onnx(pictures[:number], top=4, batch_size=size), strict=True
        ):
            assert found.names == want.names
            assert np.allclose(found.probabilities, want.probabilities, atol=1e-5)
    assert np.allclose(onnx.embed(pictures[:5]), torch.embed(pictures[:5]), atol=1e-5)
    assert sc.Predictor(graph / "onnx" / "classifier_int8.onnx")(pictures[0]).names


def test_it_needs_no_torch_and_the_script_beside_it_agrees(graph: Path, photos: Path, data) -> None:
    picture = photos / data.splits["test"].keys[0]
    code = (
        "import sys, steadyclip as sc\n"
        f"print(sc.Predictor({str(graph)!r}, backend='onnx')([{str(picture)!r}, {str(picture)!r}])[0].label)\n"
        "assert not {'torch', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip("\n") == sc.Predictor(graph, backend="onnx")(picture).label
    done = subprocess.run([sys.executable, "check.py"], cwd=graph, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "equal first names: 9 of 9"


def test_what_a_graph_says_of_itself(graph: Path, run_of) -> None:
    import onnx

    props = {each.key: each.value for each in onnx.load(graph / "onnx" / "classifier.onnx").metadata_props}
    assert json.loads(props["labels"]) == list(sc.Predictor(run_of()).names)
    assert json.loads(props["size"]) == [32, 32]


def test_what_is_refused(graph: Path, run_of, tmp_path: Path, capsys) -> None:
    with pytest.raises(UsageError, match=r"has no text_model\.onnx: export it again without --only"):
        sc.Predictor(graph, names=["day", "night"], backend="onnx")
    with pytest.raises(UsageError, match="holds graphs for onnxruntime and no weights: use it with --backend onnx"):
        sc.Predictor(graph)
    with pytest.raises(DataError, match=r"has no classifier\.onnx: name a folder that"):
        sc.Predictor(run_of(), backend="onnx")
    (tmp_path / "bad" / "onnx").mkdir(parents=True)
    (tmp_path / "bad" / "classifier.json").write_bytes((graph / "classifier.json").read_bytes())
    (tmp_path / "bad" / "onnx" / "classifier.onnx").write_bytes(b"no graph")
    with pytest.raises(DataError, match=r"classifier\.onnx cannot be read by onnxruntime"):
        sc.Predictor(tmp_path / "bad", backend="onnx")
    shutil.copytree(graph, tmp_path / "changed")
    with (tmp_path / "changed" / "onnx" / "classifier.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(DataError, match=r"classifier\.onnx was changed or damaged: export again"):
        sc.Predictor(tmp_path / "changed", backend="onnx")
    with pytest.raises(ModelError, match=r"--to onnx cannot hold cocoop.*other class texts for each image"):
        export(run_of("cocoop[steps=1]"), "onnx", tmp_path / "export", check=2)
    assert main(["export", str(run_of()), "--to", "onnx", "--out", "x", "--int8", "--dtype", "fp16"]) == 2
    assert "--int8 is made of the graph in fp32" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wrong_graph_is_found(run_of, data, tmp_path: Path, monkeypatch) -> None:
    class Wrong(onnx_graphs.Classes):
        def forward(self, pixel_values):
            return super().forward(pixel_values * 1.02)

    monkeypatch.setattr(onnx_graphs, "Classes", Wrong)
    with pytest.raises(ExportFailed, match=r"classifier\.onnx in onnxruntime, batches of 1.*nothing was written"):
        export(run_of(), "onnx", tmp_path / "export", data=data, check=4, only="classifier")
    assert not list(tmp_path.iterdir())


SLOW = {"marks": pytest.mark.slow}


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["clip", pytest.param("siglip", **SLOW), pytest.param("siglip2", **SLOW)])
def test_all_graphs_and_other_names(family: str, run_of, data, photos: Path, tmp_path: Path) -> None:
    row = "lora[steps=3,learning_rate=0.05]"
    info = export(run_of(row, family), "onnx", tmp_path / "export", data=data, check=9)
    assert {path.name for path in (tmp_path / "export" / "onnx").iterdir()} == {
        "classifier.onnx", "vision_model.onnx", "text_model.onnx", "model.onnx",
    }  # fmt: skip
    assert info.checks["onnxruntime, text_model"]["smallest_cosine"] > 0.99999
    torch, onnx = sc.Predictor(run_of(row, family)), sc.Predictor(tmp_path / "export", backend="onnx")
    names, templates = ["Day", "the night's Sky", "x" * 60], ["a {}.", "{} by day"]
    a, b = (each.with_names(names, templates) for each in (torch, onnx))
    picture = photos / data.splits["test"].keys[0]
    assert a(picture).names == b(picture).names
    assert np.allclose(a(picture).probabilities, b(picture).probabilities, atol=1e-5)
    texts = ["a", "a word " * 40]
    assert np.allclose(torch.embed_text(texts), onnx.embed_text(texts), atol=1e-5)


ROWS = ("bottleneck[steps=2]", "tip-adapter", "maple[steps=2]", "clip-adapter[steps=2]", "linear-probe")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("row", "dtype"),
    [
        ("dra[steps=2,learning_rate=0.05]", "fp32"),
        ("orthcr[steps=2,learning_rate=0.05]", "fp32"),
        pytest.param("lora[steps=3,learning_rate=0.05]", "fp16", **SLOW),
        *(pytest.param(row, "fp32", **SLOW) for row in ROWS),
    ],
)
def test_every_kind_of_method(row: str, dtype, run_of, data, photos: Path, tmp_path: Path) -> None:
    info = export(run_of(row), "onnx", tmp_path / "export", data=data, check=9, only="classifier", dtype=dtype)
    (figures,) = info.checks.values()
    assert figures["equal_first_names"] == 9
    pictures = [photos / key for key in data.splits["test"].keys]
    for want, found in zip(
        sc.Predictor(run_of(row))(pictures), sc.Predictor(tmp_path / "export", backend="onnx")(pictures), strict=True
    ):
        assert np.allclose(found.score, want.score, atol=1e-5 if dtype == "fp32" else 2e-3)
