"""No number is wrong in silence: what is scored is told by what the images and classes are, not by names or places."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadyclip.cli import main
from steadyclip.data import load_data
from steadyclip.evaluation import wise
from steadyclip.models.testing import write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_tiny("clip", folder)
    return folder


def draw(folder: Path, classes: Sequence[str], images: int = 10, seed: int = 0) -> Path:
    """``images`` noisy images of each class; no two are the same."""
    rng = np.random.default_rng([seed, len(classes)])
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(images):
            Image.fromarray(rng.integers(0, 256, (24, 24, 3), np.uint8)).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw(tmp_path / "photos", ["ant", "bee", "cow", "dog"])


@pytest.fixture
def train(model: Path, tmp_path: Path) -> Callable[..., Path]:
    def trained(data: Path, *more: str) -> Path:
        words = f"train --data {data} --model {model} --method lora[steps=1,batch_size=4] --out {tmp_path / 'run'}"
        assert main([*words.split(), "--device", "cpu", "--no-progress", *more]) == 0
        return tmp_path / "run"

    return trained


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[list[dict], str]]:
    def records(run: Path, data: Path, *more: str) -> tuple[list[dict], str]:
        """The records that are new, in the order of their names, and what was printed."""
        before = set((run / "records").glob("*.json"))
        capsys.readouterr()
        assert main(["evaluate", str(run), "--data", str(data), "--device", "cpu", *more]) == 0
        new = sorted(set((run / "records").glob("*.json")) - before)
        return [json.loads(path.read_text()) for path in new], capsys.readouterr().out

    return records


def table(path: Path, rows: Sequence[tuple[str, str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["path,label,split", *map(",".join, rows)]))
    return path


def test_two_tables_of_one_name_are_two_data_sets(photos: Path, tmp_path: Path, train, evaluate) -> None:
    others = draw(tmp_path / "others", ["ant", "bee", "cow", "dog"], seed=1)
    split = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    names = [(name, i) for name in ("ant", "bee", "cow", "dog") for i in range(10)]
    for folder in (photos, others):
        rows = [(f"{name}/{i}.png", name, split[i] if folder == photos else "test") for name, i in names]
        table(folder / "set.csv", rows)
    run = train(photos / "set.csv", "--shots", "1")
    (first,), _ = evaluate(run, photos / "set.csv")
    (second,), _ = evaluate(run, others / "set.csv")
    assert (first["data"]["images"], second["data"]["images"]) == (8, 40)
    assert (first["data"]["seen"], second["data"]["seen"]) == (0, 0)
    assert len(list((run / "records").glob("*.json"))) == 2


def test_trained_images_are_left_out_wherever_they_stand(photos: Path, tmp_path: Path, train, evaluate) -> None:
    run = train(photos, "--shots", "4")
    seen = [key for part in ("train", "val") for key, *_ in json.loads((run / "split.json").read_text())[part]]
    assert len(seen) == 24
    exam = [(f"{name}/{i}.png", name, "test") for name in ("ant", "bee", "cow", "dog") for i in range(10)]
    (record,), said = evaluate(run, table(photos / "exam.csv", exam))
    assert (record["data"]["images"], record["data"]["seen"]) == (16, 24)
    assert "all: 40 test images found, 24 left out as the run has seen them" in said
    for name in ("ant", "bee", "cow", "dog"):
        (tmp_path / "copies" / "test" / name).mkdir(parents=True)
        for i in range(10):
            shutil.copy(photos / name / f"{i}.png", tmp_path / "copies" / "test" / name / f"{9 - i}-copy.png")
    (record,), _ = evaluate(run, tmp_path / "copies")
    assert (record["data"]["images"], record["data"]["seen"]) == (16, 24)


def test_a_run_has_seen_all(photos: Path, train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(photos, "--shots", "4")
    keys = [key for key, *_ in json.loads((run / "split.json").read_text())["train"]]
    rows = [(key, key.partition("/")[0], "test") for key in keys]
    assert main(["evaluate", str(run), "--data", str(table(photos / "exam.csv", rows))]) == 1
    assert "all 16 test images of exam were trained or validated on by" in capsys.readouterr().err


def test_base_is_what_was_trained_on(tmp_path: Path, train, evaluate) -> None:
    four = draw(tmp_path / "four", ["ant", "bee", "cow", "dog"])
    six = draw(tmp_path / "six", ["aardvark", "ant", "bee", "cow", "dog", "zebu"])
    run = train(four, "--subset", "base")
    (base, new), said = evaluate(run, six)
    assert (base["data"]["subset"], base["data"]["classes"], base["data"]["images"]) == ("base", ["ant", "bee"], 6)
    assert (new["data"]["subset"], new["data"]["images"]) == ("new", 12)
    assert new["data"]["classes"] == ["aardvark", "cow", "dog", "zebu"]
    assert "4 new classes, other ones than the 2" in said
    (base, new), said = evaluate(run, four)
    assert (base["data"]["classes"], new["data"]["classes"]) == (["ant", "bee"], ["cow", "dog"])
    assert "other ones than" not in said


def test_base_of_data_without_these_classes(tmp_path: Path, train, evaluate, capsys) -> None:
    run = train(draw(tmp_path / "four", ["ant", "bee", "cow", "dog"]), "--subset", "base")
    data = draw(tmp_path / "two", ["ant", "yak"])
    (record,), said = evaluate(run, data)
    assert record["data"]["subset"] == "all"
    assert "1 of its 2 classes were trained on, of the run's 2." in said
    assert main(["evaluate", str(run), "--data", str(data), "--subset", "base"]) == 1
    assert "two lacks 1 of the 2 classes that the run was trained on, for instance 'bee'" in capsys.readouterr().err
    known = draw(tmp_path / "known", ["ant", "bee"])
    assert main(["evaluate", str(run), "--data", str(known), "--subset", "new"]) == 1
    assert "known has no class that the run was not trained on" in capsys.readouterr().err


def test_halves_of_a_run_on_all_classes_are_not_base_and_new(photos: Path, train, evaluate, capsys) -> None:
    run = train(photos, "--shots", "1")
    (first,), said = evaluate(run, photos, "--subset", "base")
    (last,), _ = evaluate(run, photos, "--subset", "new")
    assert (first["data"]["subset"], last["data"]["subset"]) == ("first 2 of 4", "last 2 of 4")
    assert "2 of these 2 classes were trained on: this is no base-to-new evaluation." in said
    assert main(["report", str(run), "--out", str(run / "page.html")]) == 0
    said = capsys.readouterr().out
    assert "photos, first 2 of 4 classes" in said
    assert " H " not in said


def test_prompts_go_with_the_run(photos: Path, tmp_path: Path, train, evaluate) -> None:
    run = train(photos, "--shots", "1", "--templates", "a doodle of {}.")
    (own,), said = evaluate(run, photos)
    (other,), _ = evaluate(run, draw(tmp_path / "partly", ["ant", "bee", "yak"]))
    assert own["data"]["templates"] == other["data"]["templates"] == ["a doodle of {}."]
    assert 'prompts: "a doodle of {}." (the data\'s own: "a photo of a {}.")' in said
    (asked,), _ = evaluate(run, photos, "--templates", "a {}.")
    assert asked["data"]["templates"] == ["a {}."]


def test_no_evaluation_replaces_another(photos: Path, train, evaluate, capsys) -> None:
    run = train(photos, "--shots", "1")
    for more in ([], ["--templates", "a {}.", "a doodle of {}."], ["--precision", "bf16"]):
        (_,), _ = evaluate(run, photos, *more)
        assert evaluate(run, photos, *more)[0] == []  # the same again has the same name
    names = sorted(path.name[:-12] for path in (run / "records").glob("*.json"))
    assert names == ["photos-all", "photos-all-bf16", "photos-all-prompts"]
    assert main(["report", str(run), "--out", str(run / "page.html"), "--markdown"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| lora")]
    assert [row.split(" | ")[0] for row in sorted(rows)] == [
        "| lora, precision bf16, prompts a photo of a {}.",
        "| lora, precision fp32, prompts a photo of a {}.",
        "| lora, precision fp32, prompts a {}. a doodle of {}.",
    ]


def test_images_that_changed_are_named(photos: Path, train, model: Path, capsys) -> None:
    run = train(photos, "--shots", "1")
    key = json.loads((run / "split.json").read_text())["train"][0][0]
    Image.new("RGB", (24, 24)).save(photos / key)
    words = f"train --data {photos} --model {model} --method lora[steps=1,batch_size=4] --shots 1 --out {run}"
    assert main(words.split()) == 1
    assert f"1 of its 8 images have changed since, for instance {key}" in capsys.readouterr().err


def test_the_next_command_is_the_same_data(photos: Path, train, capsys) -> None:
    run = train(photos, "--shots", "1", "--templates", "a doodle of {}.", "--max-unreadable", "0.5")
    said = capsys.readouterr().out
    assert (
        f"next: steadyclip evaluate {run} --data {photos} --templates 'a doodle of {{}}.' --max-unreadable 0.5" in said
    )


def test_a_leak_is_an_error_of_data_check(photos: Path, tmp_path: Path, capsys) -> None:
    for split in ("train", "test"):
        shutil.copytree(photos, tmp_path / "leaky" / split)
    assert main(["data", "check", "--data", str(tmp_path / "leaky")]) == 1
    out, error = capsys.readouterr()
    assert error.startswith("error: 40 images of leaky found both in test and in training or validation, for instance")
    assert "and 20 more images that are there twice" in out
    assert out.count("no validation split was given") == 1


def test_your_own_data_needs_the_name_of_a_model(photos: Path, tmp_path: Path, capsys) -> None:
    assert main(["train", "--data", str(photos), "--out", str(tmp_path / "run")]) == 2
    assert "name the model to train with --model" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_will_be_trained_is_said_first(photos: Path, train, capsys) -> None:
    train(photos, "--shots", "2")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("model: ")
    assert said.index("lora[steps=1,batch_size=4]: 1 steps of 4 images, each image 0.5 times") < len(said) - 3


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", "cuda:x", "xpu"])
@pytest.mark.parametrize(
    "words",
    [
        "train --data d --out r", "evaluate r --data d", "predict r i.png", "bench base-to-new --data d",
        "anchors embed p.parquet --out p", "anchors retrieve --data d --pool p --out o",
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(words: str, device: str, capsys) -> None:
    assert main([*words.split(), "--device", device]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: device '{device}' is not there: one of cpu")
    assert error.count("\n") == 1


def test_records_say_how_they_were_computed(photos: Path, train, evaluate) -> None:
    run = train(photos, "--shots", "1")
    (record,), _ = evaluate(run, photos)
    assert (record["precision"], record["device"]) == ("fp32", "cpu")
    assert record["threads"] >= 1
    assert json.loads((run / "run.json").read_text())["results"]["threads"] >= 1


def test_two_data_sets_of_one_name_in_a_table(photos: Path, model: Path, tmp_path: Path, capsys) -> None:
    others = draw(tmp_path / "others" / "photos", ["ant", "bee", "cow", "dog"], seed=1)
    words = f"bench base-to-new --data {photos} {others} --model {model} --methods zero-shot --out {tmp_path / 'b'}"
    assert main(words.split()) == 2
    assert f"{photos} and {others} are both named 'photos': rename one of them." in capsys.readouterr().err


def test_prompts_that_are_cut_are_counted(tmp_path: Path, train, evaluate) -> None:
    run = train(draw(tmp_path / "photos", ["ant", "bee " * 40]), "--shots", "1")
    (record,), said = evaluate(run, tmp_path / "photos")
    assert record["note"].startswith("1 of 2 texts are cut at the 32 tokens that the model reads, such as 'a photo of")
    assert "photos, all: 1 of 2 texts are cut" in said


def test_alpha_is_chosen_with_the_prompts_that_are_scored(
    photos: Path, model: Path, tmp_path: Path, monkeypatch
) -> None:
    seen: list[tuple[str, ...]] = []
    original = wise.choose_alpha

    def choose(*arguments, **options):
        seen.append(options["templates"])
        return original(*arguments, **options)

    monkeypatch.setattr("steadyclip.evaluation.choose_alpha", choose)
    words = (
        f"train --data {photos} --model {model} --method full[steps=1,batch_size=4] --out {tmp_path / 'run'} --shots 2"
    )
    assert main([*words.split(), "--no-progress", "--templates", "a doodle of {}."]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--data", str(photos), "--wise-alpha", "val"]) == 0
    assert seen == [("a doodle of {}.",)]


def test_domains_that_are_left_out_are_counted(tmp_path: Path, train, evaluate) -> None:
    for domain in ("photo", "sketch"):
        draw(tmp_path / "pets" / domain, ["ant", "bee"], seed=len(domain))
    run = train(tmp_path / "pets", "--sources", "photo")
    _, said = evaluate(run, tmp_path / "pets")
    assert "the run was trained on domain photo, and training images are of photo, sketch here: --sources" in said
    (record,), said = evaluate(run, tmp_path / "pets", "--sources", "photo")
    assert "the run was trained on" not in said
    assert f"{record['data']['images']} scored" in said
    assert "20 test images of other domains are left out: --domain, one of photo, sketch" in said


def test_retrieved_images_are_seen_too(photos: Path, model: Path, tmp_path: Path, evaluate) -> None:
    """ARF trains on them, so that they are no test images."""
    rows = [f"{name}/{i}.png,a {name}" for name in ("ant", "bee", "cow", "dog") for i in range(10)]
    (photos / "pairs.csv").write_text("\n".join(["path,text", *rows]))
    pool, anchors = tmp_path / "pool", tmp_path / "anchors.parquet"
    assert main(f"anchors embed {photos / 'pairs.csv'} --model {model} --out {pool}".split()) == 0
    words = f"anchors retrieve --data {photos} --shots 2 --model {model} --pool {pool} --k 9 --out {anchors}"
    assert main([*words.split(), "--near-duplicate", "None"]) == 0
    row = f"arf[anchors={anchors},l_c=0,steps=1,batch_size=4,warmup_steps=0]"
    words = f"train --data {photos} --model {model} --method {row} --shots 2 --out {tmp_path / 'run'} --no-progress"
    assert main(words.split()) == 0
    shown = json.loads((tmp_path / "run" / "split.json").read_text())["shown"]
    test = load_data(str(photos)).test_set()
    expected = sum(digest in shown for digest in test.digests)
    assert expected > 0
    (record,), _ = evaluate(tmp_path / "run", photos)
    assert record["data"]["seen"] == expected


def test_evaluate_keeps_what_a_grid_knows(photos: Path, model: Path, tmp_path: Path, evaluate) -> None:
    words = f"bench few-shot --data {photos} --methods lora[steps=1,batch_size=4] --shots 1 2 --seeds 1 --model {model}"
    assert main([*words.split(), "--out", str(tmp_path / "b"), "--device", "cpu", "--no-progress"]) == 0
    for file in (tmp_path / "b").glob("lora*/records/*.json"):
        before = json.loads(file.read_text())
        evaluate(file.parents[1], photos)
        after = json.loads(file.read_text())
        assert [after[key] for key in ("role", "settings")] == [before[key] for key in ("role", "settings")]
        assert after["method"]["label"] == before["method"]["label"]


def test_names_to_predict_among_are_class_names(photos: Path, train, capsys) -> None:
    run = train(photos, "--shots", "1")
    for names in (["red_ant", "bee"], ["red ant", " bee "]):
        capsys.readouterr()
        assert main(["predict", str(run), str(photos / "ant" / "0.png"), "--json", "--names", *names]) == 0
        assert set(json.loads(capsys.readouterr().out)[0]["names"]) == {"red ant", "bee"}
    assert main(["predict", str(run), str(photos / "ant" / "0.png"), "--names", "ant", "bee", "Ant"]) == 2
    assert main(["predict", str(run), str(photos / "ant" / "0.png"), "--names", "ant", " "]) == 2
