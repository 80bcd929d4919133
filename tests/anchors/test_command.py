"""`steadyclip anchors` from images to page, and people's mistakes."""

import subprocess
import sys

import pytest
from anchor_world import png, write_parquet

from steadyclip.anchors import read_anchors, read_captions
from steadyclip.cli import main
from steadyclip.models.testing import write_tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_tiny("clip", folder / "model")
    write_parquet(folder / "pairs.parquet", 50, 20)
    rows = ["path,label,split,caption"]
    for n in range(12):
        (folder / f"{n}.png").write_bytes(png(n))
        rows.append(f"{n}.png,{'cat' if n % 2 else 'dog'},{('train', 'train', 'test')[n % 3]},a small animal {n}")
    (folder / "data.csv").write_text("\n".join(rows))
    return folder


def run(world, words: str) -> int:
    return main(["anchors", *words.format(w=world).split()])


def test_from_pictures_to_page(world, tmp_path, capsys) -> None:
    data = "--data {w}/data.csv"
    assert run(world, f"caption {data} --captioner manifest --out {tmp_path}/c.parquet") == 0
    assert set(read_captions(tmp_path / "c.parquet")) <= {f"{n}.png" for n in range(12)}
    assert run(world, f"embed {{w}}/pairs.parquet --model {{w}}/model --out {tmp_path}/pool") == 0
    assert "(20 pairs, hash " in capsys.readouterr().out
    retrieve = f"retrieve {data} --pool {tmp_path}/pool --model {{w}}/model"
    assert run(world, f"{retrieve} --k 3 --near-duplicate None --out {tmp_path}/a.parquet") == 0
    printed = capsys.readouterr().out
    assert f"steadyclip anchors show --data {world}/data.csv --anchors {tmp_path}/a.parquet" in printed
    anchors = read_anchors(tmp_path / "a.parquet")
    assert len(anchors) == 3 * len(anchors.keys)
    text = f"{retrieve} --query text --captions {tmp_path}/c.parquet --near-duplicate None --out {tmp_path}/t.parquet"
    assert run(world, text) == 0
    assert run(world, f"{retrieve} --random-like {tmp_path}/a.parquet --out {tmp_path}/r.parquet") == 0
    for file in ("a", "r"):
        page = tmp_path / f"{file}.html"
        assert run(world, f"show {data} --anchors {tmp_path}/{file}.parquet --limit 4 --out {page}") == 0
        html = page.read_text()
        assert html.count('<article class="anchor">') == 4
        assert "a small animal" in html
        assert "image number" in html
        assert 'src="data:image/png;base64,' in html
        assert "://" not in html
    assert "random" in html


def test_a_page_of_captions_alone(world, tmp_path) -> None:
    assert run(world, f"show --data {{w}}/data.csv --out {tmp_path}/page.html") == 0
    assert "a small animal" in (tmp_path / "page.html").read_text()


def test_texts_are_escaped(world, tmp_path) -> None:
    (tmp_path / "x.png").write_bytes(png(1))
    (tmp_path / "y.png").write_bytes(png(2))
    (tmp_path / "d.csv").write_text("path,label,split,caption\nx.png,a,train,<script>\ny.png,b,train,fine\n")
    assert main(["anchors", "show", "--data", f"{tmp_path}/d.csv", "--out", f"{tmp_path}/page.html"]) == 0
    assert "<script>" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("caption --data {w}/data.csv --captioner nothing --out {w}/x.parquet", 1, "no model 'nothing'"),
        ("embed {w}/nowhere --model {w}/model --out {w}/x", 1, "no such file or folder"),
        ("retrieve --data {w}/data.csv --pool {w} --out {w}/x.parquet", 1, "holds no pool"),
        ("show --data {w}/data.csv --anchors {w}/pairs.parquet", 1, "is not an anchor file: it has no column 'query'"),
        ("show --data {w}/data.csv --captions {w}/nope.parquet", 1, "there is no such file"),
        ("show --data {w}/data.csv --limit 0", 2, "limit must be 1 or more"),
    ],
)
def test_mistakes(world, capsys, words, code, line) -> None:
    assert run(world, words) == code
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_a_pool_of_other_weights(world, tmp_path, capsys) -> None:
    write_tiny("clip", tmp_path / "other", seed=1)
    assert run(world, f"embed {{w}}/pairs.parquet --model {tmp_path}/other --out {tmp_path}/pool") == 0
    words = f"retrieve --data {{w}}/data.csv --pool {tmp_path}/pool --model {{w}}/model --out {tmp_path}/a.parquet"
    assert run(world, words) == 1
    assert "was embedded with other weights" in capsys.readouterr().err
    assert not (tmp_path / "a.parquet").exists()


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from steadyclip.cli import main\n"
        "try: main(['anchors', 'embed', '--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'pyarrow', 'numpy', 'PIL'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
