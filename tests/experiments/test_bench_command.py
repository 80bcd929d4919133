"""`steadyclip bench` as people use it, and their mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steadyclip.cli import main
from steadyclip.methods import registry

LORA = "lora[steps=2,batch_size=6]"


def words(world: Path, out: Path, *more: str, protocol: str = "base-to-new") -> list[str]:
    text = (
        f"bench {protocol} --data {world / 'photos'} --model {world / 'model'} --out {out} --no-progress --device cpu"
    )
    return [*text.split(), *more]


def test_table_page_markdown_and_csv(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--methods", "zero-shot", LORA, "--seeds", "1", "2", "--shots", "2"]
    assert main(words(world, tmp_path, *more)) == 0
    printed = capsys.readouterr().out
    assert LORA in printed
    assert f"page: {tmp_path / 'base-to-new-photos.html'}" in printed
    assert (tmp_path / "base-to-new-photos.html").read_text().count(LORA) >= 1
    assert (
        f"| {LORA} |".replace("[", r"\[").replace("]", r"\]").replace("_", r"\_")
        in (tmp_path / "base-to-new-photos.md").read_text()
    )
    assert main(words(world, tmp_path, *more, "--csv")) == 0
    printed = capsys.readouterr()
    assert printed.out == (tmp_path / "base-to-new-photos.csv").read_text()
    assert "page:" in printed.err
    assert main(words(world, tmp_path, *more, "--markdown")) == 0
    assert capsys.readouterr().out == (tmp_path / "base-to-new-photos.md").read_text()
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "all.html")]) == 0  # from the records alone
    assert LORA in capsys.readouterr().out


def test_rows_of_a_file_with_pieces_and_a_method_of_a_file(world: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    (tmp_path / "their_file.py").write_text(
        "from steadyclip.adapters import LowRank\nfrom steadyclip.methods import Method, Recipe\n"
        "class Mine(Method):\n    name = 'benched'\n    adapters = (LowRank(),)\n    recipe = Recipe(steps=2)\n"
    )
    pieces = "compose[objective=CrossEntropy()+0.5*Consistency(cross=True),steps=2,batch_size=6]"
    mine = f"{tmp_path}/their_file.py:Mine[batch_size=6,cutout=0.25]"
    (tmp_path / "rows.txt").write_text(f"# two\n{pieces}\n{mine}\n")
    out = tmp_path / "out"
    more = f"--methods @{tmp_path}/rows.txt --seeds 1 --shots 2 --csv --jobs 2"  # in processes of their own
    assert main(words(world, out, *more.split())) == 0
    printed = capsys.readouterr().out
    assert f'"{pieces}"' in printed
    assert f'"{mine}"' in printed
    (run,) = (json.loads(path.read_text()) for path in out.glob("their_file.py-Mine-batch_size=6-*/run.json"))
    assert (run["method"]["name"], run["config"]["cutout"], run["recipe"]["batch_size"]) == ("benched", 0.25, 6)


def test_a_failure_is_named_and_the_table_is_there(world: Path, tmp_path: Path, capsys) -> None:
    bad = "lora[steps=2,batch_size=6,learning_rate=1e6,weight_decay=1e6]"
    assert main(words(world, tmp_path, "--methods", "zero-shot", bad, "--seeds", "1", "--shots", "2")) == 1
    printed = capsys.readouterr()
    assert "zero-shot" in printed.out
    assert printed.err.startswith("error: 1 cell failed; the same command again tries only this. lora[steps=2")
    assert printed.err.count("\n") == 1


def test_settings_of_the_embedded_model_are_said() -> None:
    from steadyclip.experiments.bench import settings_lines
    from steadyclip.experiments.rows import parse_rows
    from steadyclip.experiments.settings import Settings, settings_for

    tiny = settings_for("icons-small")
    (line,) = settings_lines(parse_rows(["zero-shot", "full", "lora[rank=4]"], tiny), "icons-small")
    assert line == f"full, lora[rank=4]: recipes {tiny.name} (--recipes published for the papers')"
    assert settings_lines(parse_rows(["full"]), "other") == []
    some = Settings("chosen for it", {"full": tiny.choices["full"]})
    assert settings_lines(parse_rows(["full", "lora"], some), "it")[1] == (
        "lora: published recipes; none were chosen for it"
    )


@pytest.mark.parametrize(
    ("more", "code", "line"),
    [
        (["--methods", "lroa"], 2, "Did you mean 'lora'?"),
        (["--methods", "lora[rnak=3]"], 2, "Did you mean 'rank'?"),
        (["--methods"], 2, "no method was given"),
        (["--seeds"], 2, "--seeds needs at least one"),
        (["--jobs", "0"], 2, "--jobs must be 1 or more"),
        (["--markdown", "--csv"], 2, "not both"),
        (["--shots", "0", "--methods", "lora"], 2, "--shots must be 1 or more"),
        (["--data", "icosn"], 1, "Did you mean 'icons'?"),
        (["--data", "{world}/model"], 1, "model"),
        (["--model", "nowhere"], 1, "no model 'nowhere'"),
        (["--launcher", "slurm", "--slurm", "timeout"], 2, "key=value"),
    ],
)
def test_mistakes(more: list[str], code: int, line: str, world: Path, tmp_path: Path, capsys) -> None:
    more = [word.format(world=world) for word in more]
    assert main(words(world, tmp_path / "out", *more)) == code
    error = capsys.readouterr().err
    assert line in error
    assert error.count("\n") == 1


def test_help_needs_no_torch() -> None:
    code = (
        "import sys\nfrom steadyclip.cli import main\n"
        "try: main(['bench', '--help'])\nexcept SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'pyarrow', 'numpy'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
