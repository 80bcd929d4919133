"""`predict`: what can be named, where answers go, how a stopped job goes on."""

import csv
import io
import json
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from steadyclip.cli import main
from steadyclip.core.errors import DataError
from steadyclip.core.files import owning
from steadyclip.deploy.listing import find_pictures


@pytest.fixture
def some(photos: Path, tmp_path: Path) -> Path:
    """A folder with three images, a broken one and a text."""
    folder = tmp_path / "some"
    (folder / "below").mkdir(parents=True)
    for i, name in enumerate(["b.png", "a.png", "below/c.png"]):
        (folder / name).write_bytes((photos / "gray" / f"{i:02}.png").read_bytes())
    (folder / "broken.png").write_bytes(b"\x89PNG")
    (folder / "notes.txt").write_text("a.png\n\nbelow/c.png\n")
    (folder / "list.csv").write_text("path,other\na.png,1\nb.png,2\n")
    return folder


def names(paths: list[str], folder: Path) -> list[str]:
    return [Path(path).relative_to(folder).as_posix() for path in paths]


def test_what_can_be_named(some: Path, capsys) -> None:
    assert names(find_pictures([str(some)]), some) == ["a.png", "b.png", "below/c.png", "broken.png"]
    assert "2 files in" in capsys.readouterr().err  # the lists
    assert names(find_pictures([str(some)], recursive=False), some) == ["a.png", "b.png", "broken.png"]
    assert names(find_pictures([f"{some}/[ab].png"]), some) == ["a.png", "b.png"]
    assert names(find_pictures([f"{some}/**/*.png"]), some) == ["a.png", "b.png", "below/c.png", "broken.png"]
    assert names(find_pictures([f"{some}/notes.txt"]), some) == ["a.png", "below/c.png"]
    assert names(find_pictures([f"{some}/list.csv", f"{some}/a.png"]), some) == ["a.png", "b.png"]
    assert "1 image is named twice" in capsys.readouterr().err
    assert find_pictures(["-"], stdin=io.StringIO("x.png\ny z.png\n")) == ["x.png", "y z.png"]


@pytest.mark.parametrize(
    ("word", "line"),
    [("{}/*.gif", "no image matches"), ("{}/empty", "holds no images"), ("-", "standard input names no image"),
     ("{}/none.txt", "cannot be read as a list")],
)  # fmt: skip
def test_what_names_nothing(word: str, line: str, some: Path) -> None:
    (some / "empty").mkdir()
    with pytest.raises(DataError, match=line):
        find_pictures([word.format(some)], stdin=io.StringIO(""))


def test_every_format_says_the_same(run_of, some: Path, tmp_path: Path, capsys) -> None:
    tables = {}
    for kind in ("csv", "jsonl", "json", "parquet"):
        out = tmp_path / f"out.{kind}"
        assert main(["predict", str(run_of()), str(some), "--out", str(out), "--top", "2"]) == 0
        assert "3 named, 1 unreadable" in capsys.readouterr().err
        tables[kind] = out
    rows = list(csv.DictReader(io.StringIO(tables["csv"].read_text(encoding="utf-8"))))
    lines = [json.loads(line) for line in tables["jsonl"].read_text(encoding="utf-8").splitlines()]
    assert json.loads(tables["json"].read_text(encoding="utf-8")) == lines
    table = parquet.read_table(tables["parquet"]).to_pylist()
    assert list(table[0]) == list(rows[0])
    for row, line, cells in zip(rows, lines, table, strict=True):
        assert row["path"] == line["path"] == cells["path"]
        assert row["label"] == line["label"] == cells["label"]
        if line["error"]:
            assert "not an image" in row["error"] == cells["error"] == line["error"]
            assert (row["score"], cells["label_1"], line["names"]) == ("", None, [])
        else:
            assert [row["label_1"], row["label_2"]] == line["names"]
            assert float(row["score_1"]) == pytest.approx(line["probabilities"][0], rel=1e-5)
            assert cells["score_2"] == pytest.approx(line["probabilities"][1], rel=1e-6)
    assert main(["predict", str(run_of()), str(some), "--csv", "--top", "2"]) == 0
    assert capsys.readouterr().out == tables["csv"].read_text(encoding="utf-8")


def test_names_cannot_act_and_lead_back(run_of, photos: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    picture = (photos / "gray" / "00.png").read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in (b"=1+1.png", b"caf\xe9.png"):
        with open(name, "wb") as file:
            file.write(picture)
    words = ["predict", str(run_of()), "=1+1.png", "*.png", "--out", "out.csv"]
    assert main(words) == 0
    whole = Path("out.csv").read_text(encoding="utf-8")
    assert [line.split(",")[0] for line in whole.splitlines()[1:]] == ["'=1+1.png", r"caf\xe9.png"]
    assert "cannot be read" not in whole
    assert main([*words, "--resume"]) == 0
    assert Path("out.csv").read_text(encoding="utf-8") == whole
    assert main(["embed", str(run_of()), ".", "--out", "features"]) == 0
    capsys.readouterr()
    assert main(["search", "features", "x"]) == 0
    assert r"caf\xe9.png" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_stopped_job_goes_on(kind: str, run_of, some: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / f"out.{kind}"
    words = ["predict", str(run_of()), str(some), "--out", str(out)]
    assert main(words) == 0
    whole = out.read_bytes()
    for cut in (0, 1, whole.index(b"\n") + 4, len(whole) // 2, len(whole) - 1, len(whole)):
        out.write_bytes(whole[:cut])
        assert main([*words, "--resume"]) == 0
        assert out.read_bytes() == whole
    capsys.readouterr()
    assert main(words) == 2
    assert "is there already: --resume goes on with it, --force writes it anew" in capsys.readouterr().err
    assert main([*words, "--resume", "--names", "day", "night", "noon", "dawn"]) == 1
    assert "answers of another model, other names" in capsys.readouterr().err
    assert main([*words, "--resume", "--top", "1"]) == (1 if kind == "csv" else 0)
    assert main([*words, "--force"]) == 0
    assert out.read_bytes() == whole


def test_one_process_writes_a_file(run_of, some: Path, tmp_path: Path, capsys) -> None:
    run, out = str(run_of("zero-shot")), tmp_path / "answers.csv"
    with owning(tmp_path / ".answers.csv.lock", leave=False):
        assert main(["predict", run, str(some / "a.png"), "--out", str(out)]) == 1
    assert f"{out} is being written by process " in capsys.readouterr().err
    assert not out.exists()
    assert main(["predict", run, str(some / "a.png"), "--out", str(out)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if "answers" in path.name) == ["answers.csv"]


def test_names_that_a_spreadsheet_would_compute(run_of, some: Path, monkeypatch) -> None:
    monkeypatch.chdir(some)
    (some / "=1+1.png").write_bytes((some / "a.png").read_bytes())
    words = ["predict", str(run_of()), "=1+1.png", "a.png", "--out", "out.csv"]
    assert main(words) == 0
    whole = Path("out.csv").read_text(encoding="utf-8")
    for cut in (len(whole.splitlines()[0]) + 1, whole.index("\na.png") + 1, len(whole)):
        Path("out.csv").write_text(whole[:cut], encoding="utf-8")
        assert main([*words, "--resume"]) == 0
        rows = list(csv.DictReader(io.StringIO(Path("out.csv").read_text(encoding="utf-8"))))
        assert [row["path"] for row in rows] == ["'=1+1.png", "a.png"]


def test_when_it_fails(run_of, some: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    run = str(run_of())
    assert main(["predict", run, str(some), "--strict"]) == 1
    assert "1 of 4 images cannot be read, for instance" in capsys.readouterr().err
    assert main(["predict", run, str(some / "broken.png")]) == 1
    for more, line in (
        (["--out", "x.txt"], "--out x.txt: the ending must be one of .csv, .jsonl, .json, .parquet"),
        (["--out", "x.json", "--resume"], "--resume goes on with .csv and .jsonl"),
        (["--resume"], "name one"),
        (["--json", "--csv"], "give one of"),
        (["--threshold", "1.5"], "threshold=1.5 must be from 0 to 1"),
        (["--names", "@nowhere.txt"], "--names @nowhere.txt: the file cannot be read"),
        (["--names", "day", "--templates", "a photo"], "template 'a photo' has no {}"),
    ):
        capsys.readouterr()
        assert main(["predict", run, str(some), *more]) == 2
        assert line in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("day\nnight\n")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{some}/a.png\n"))
    model = str(run_of().parent / "model-clip")
    assert main(["predict", model, "-", "--names", f"@{tmp_path}/names.txt", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert set(found["names"]) == {"day", "night"}
