import dataclasses
import json
import pickle
import shutil

import pytest
import torch
from training_world import RECIPE, clip, make_task, same

from steadyclip.core.errors import ModelError, SteadyClipError, UsageError
from steadyclip.methods import get_method, registry
from steadyclip.models.testing import tiny
from steadyclip.training import TrainConfig, fit, load_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    model = clip()
    lora = get_method("lora", {"rank": 3, "layers": "q,v"})
    result = fit(model, lora, make_task(), recipe=RECIPE, config=TrainConfig(out=out, progress=False))
    return out, model, result


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished[0], tmp_path / "run")


def test_a_loaded_run_is_the_trained_model(finished) -> None:
    out, trained, result = finished
    model, method, run = load_run(out, model=clip())
    assert same(model.trained_state(), trained.trained_state())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.encode_image(images), trained.encode_image(images))
    assert not torch.equal(model.encode_image(images), clip().encode_image(images))
    assert (method.knobs()["rank"], method.knobs()["layers"]) == (3, ["q", "v"])
    assert run == result.run
    assert not any(module.training for module in model.modules())


def test_half_a_line_of_the_log_is_passed_over(copy) -> None:
    log, lora = copy / "log.jsonl", get_method("lora", {"rank": 3, "layers": "q,v"})
    rows = log.read_text().splitlines()
    losses = [json.loads(row)["loss"] for row in rows]
    for end in ("[1, 2", "[]", "\N{LATIN SMALL LETTER E WITH ACUTE}{"):
        log.write_text("\n".join([*rows, end]), encoding="utf-8")
        result = fit(clip(), lora, make_task(), recipe=RECIPE, config=TrainConfig(out=copy, progress=False))
        assert result.losses == losses


def test_a_run_says_all_that_its_numbers_depend_on(finished) -> None:
    out, model, _ = finished
    run = json.loads((out / "run.json").read_text())
    task = make_task()
    assert run["model"] == {"name": "tiny-clip", "family": "clip", "weights_hash": model.weights_hash}
    assert run["method"]["name"] == "lora"
    assert run["method"]["knobs"]["rank"] == 3
    assert run["recipe"] == dataclasses.asdict(RECIPE)
    assert run["task"]["content"] == task.content
    assert run["task"]["classes"] == list(task.classes)
    assert run["task"]["shots"] == 4
    assert run["config"]["seed"] == 1
    assert run["config"]["out"] is None  # a run folder may be moved
    assert {"steadyclip", "torch", "python", "transformers"} <= run["versions"].keys()
    assert run["results"]["loss"]["mean"] == pytest.approx(run["results"]["loss"]["cross_entropy"])
    assert run["results"]["seconds"] > 0
    assert json.loads((out / "split.json").read_text()) == json.loads(json.dumps(task.split_json()))


def test_the_model_is_loaded_by_the_name_in_the_run(tmp_path) -> None:
    from steadyclip import load

    clip().save(tmp_path / "model")
    model = load(tmp_path / "model")
    fit(model, get_method("lora"), make_task(), recipe=RECIPE, config=TrainConfig(out=tmp_path / "run", progress=False))
    again, _, _ = load_run(tmp_path / "run")
    assert same(again.trained_state(), model.trained_state())


def test_other_weights_are_refused(finished) -> None:
    with pytest.raises(ModelError, match=r"was trained on other weights .*load the model it was trained on"):
        load_run(finished[0], model=tiny("clip", seed=1))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("no weights", "is not there"),
        ("pickle beside", r"adapter\.bin is a pickle"),
        ("pickle", "is a pickle"),
        ("cut", "is damaged"),
        ("unfinished", "is not finished: give its"),
        ("no run", r"cannot read .*run\.json"),
        ("cut run", r"run\.json is not a JSON file .*: train again"),
        ("a record", r"run\.json is not a run \(field 'kind' is 'evaluation'"),
        ("version 0", r"run\.json is a run of version 0\.x \(schema 1\).*: train again into another folder\."),
        ("other method", r"field 'method\.label' is missing: train again"),
    ],
)
def test_a_broken_run_is_one_clear_line(copy, harm, words) -> None:
    weights, description = copy / "trained.safetensors", copy / "run.json"
    run = json.loads(description.read_text())
    if harm in ("no weights", "pickle beside"):
        weights.unlink()
        if harm == "pickle beside":
            (copy / "adapter.bin").write_bytes(b"")
    elif harm == "pickle":
        weights.write_bytes(pickle.dumps({}))
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:50])
    elif harm == "no run":
        description.unlink()
    elif harm == "cut run":
        description.write_text(description.read_text()[:300])
    else:
        changes = {
            "unfinished": {"results": None}, "a record": {"kind": "evaluation"}, "version 0": {"schema": 1}
        }  # fmt: skip
        other = {"method": {"name": "linear-probe", "knobs": {}}}
        description.write_text(json.dumps({**run, **changes.get(harm, other), "checksum": None}))
    with pytest.raises(SteadyClipError, match=words) as caught:
        load_run(copy, model=clip())
    assert "\n" not in str(caught.value)


# ---- methods from elsewhere

MINE = """
from steadyclip.methods.full import Full

class Mine(Full):
    name = "mine"
    strength: float = 1.0
"""


@pytest.fixture
def of_a_file(tmp_path, monkeypatch):
    """A run of a method in a file; then a process that has not imported it."""
    (tmp_path / "mine.py").write_text(MINE)
    method = get_method(f"{tmp_path / 'mine.py'}:Mine", {"strength": 2.0})
    fit(clip(), method, make_task(), recipe=RECIPE, config=TrainConfig(out=tmp_path / "run", progress=False))
    del registry._REGISTRY["mine"]
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run", method


def test_a_method_of_a_file_is_named_and_not_imported(of_a_file) -> None:
    out, method = of_a_file
    assert json.loads((out / "run.json").read_text())["method"]["origin"] == "the file mine.py"
    words = r"trained by the method 'mine' of the file mine\.py, which cannot be used here: unknown method"
    with pytest.raises(UsageError, match=words) as caught:
        load_run(out, model=clip())
    assert "\n" not in str(caught.value)
    assert "mine" not in registry._REGISTRY
    assert load_run(out, model=clip(), method=method)[1] is method


def test_the_method_that_is_given_must_be_that_of_the_run(of_a_file, finished) -> None:
    out, method = of_a_file
    with pytest.raises(UsageError, match=r"trained by mine\[.*differs in knobs\.strength\."):
        load_run(out, model=clip(), method=type(method)())
    with pytest.raises(UsageError, match=r"differs in name, knobs\."):
        load_run(finished[0], model=clip(), method=method)


def test_a_folder_cannot_say_which_file_is_run(copy, tmp_path) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    run = json.loads((copy / "run.json").read_text())
    run["method"]["name"] = f"{tmp_path / 'evil.py'}:Evil"
    del run["checksum"]
    (copy / "run.json").write_text(json.dumps(run))
    with pytest.raises(UsageError, match="is no name of a method"):
        load_run(copy, model=clip())
    assert not (tmp_path / "ran").exists()


def test_methods_of_this_package_have_no_origin(finished) -> None:
    assert finished[2].run.method.origin == ""
