"""Grids from folder to table: what is kept, what is done again, what a failure and a kill leave behind."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from multiprocessing import connection
from pathlib import Path
from socket import gethostname
from threading import Timer

import pytest
from grid_world import ROWS, contents, in_process, killed_after, run_slow_table, run_table, table

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.core.files import owning
from steadyclip.data import load_data
from steadyclip.evaluation.records import load_records
from steadyclip.experiments import bench, cell, launchers, protocols
from steadyclip.experiments.launchers import through_submitit
from steadyclip.experiments.protocols import Source, few_shot, from_source, make_plan
from steadyclip.report import main_table

LORA = ROWS[2]


@pytest.fixture(scope="module")
def reference(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished grid."""
    out = tmp_path_factory.mktemp("reference")
    assert not table(world, out).failed
    return out


def test_records_of_every_row_seed_and_half(reference: Path, world: Path) -> None:
    said: list[str] = []
    result = table(world, reference, log=said.append)  # kept, so it takes no time
    assert len(result.records) == (1 + 2 + 2) * 2
    by = {(r.method.label, r.seed, r.data.subset): r for r in result.records}
    assert by["linear-probe", 1, "new"].metrics is None
    assert by[LORA, 2, "base"].method.name == "lora"
    assert by[LORA, 2, "base"].data.classes == ("class 0", "class 1", "class 2")
    assert by[LORA, 2, "new"].role == "transfer"
    assert by[LORA, 2, "new"].settings == "published"
    drift = by[LORA, 2, "new"].drift
    assert drift is not None
    assert 0 < drift.image.cka <= 1
    assert drift.text.cosine < 1
    assert by["zero-shot", None, "new"].drift is None
    (section,) = main_table(result.records).sections
    assert [row.label for row in section.rows] == list(ROWS)
    assert section.rows[2].cells[0].spread is not None
    assert said[0].startswith("photos: 5 classes")


def test_nothing_finished_is_done_again(reference: Path, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()}
    monkeypatch.setattr(launchers, "attempt", lambda *_: pytest.fail("a finished cell was tried"))
    table(world, reference)
    assert {path: path.stat().st_mtime_ns for path in reference.rglob("*") if path.is_file()} == before


def test_other_settings_have_a_folder_of_their_own(world: Path, tmp_path: Path) -> None:
    for decay in (0.0, 0.1):
        table(world, tmp_path, [f"lora[steps=1,batch_size=6,weight_decay={decay}]"], seeds=(1,))
    table(world, tmp_path, ["lora[steps=1,batch_size=6,weight_decay=0.1]"], seeds=(1,), precision="bf16")
    assert len(list(tmp_path.glob("lora*"))) == 3


def test_an_image_that_was_overwritten_is_trained_on_anew(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "world")
    moved = tmp_path / "world"
    rows = ["zero-shot", LORA]
    first = table(moved, tmp_path / "out", rows, seeds=(1,))
    for row, folder in (("zero-shot", "zero-shot*"), ("lora", "lora*")):
        assert len(list((tmp_path / "out").glob(folder))) == 1, row
    # the same images elsewhere are the same training
    table(world, tmp_path / "out", rows, seeds=(1,))
    assert len(list((tmp_path / "out").glob("lora*"))) == 1
    split = json.loads(next((tmp_path / "out").glob("lora*/split.json")).read_text())
    file = moved / "photos" / split["train"][0][0]
    file.write_bytes((moved / "photos" / split["train"][-1][0]).read_bytes())
    open_again()
    second = table(moved, tmp_path / "out", rows, seeds=(1,))
    assert len(list((tmp_path / "out").glob("lora*"))) == 2
    assert len(list((tmp_path / "out").glob("zero-shot*"))) == 1  # its test images are the same
    contents = [record.training.task.content for result in (first, second) for record in result.records[2:3]]
    assert len(set(contents)) == 2
    # an image of the test set: scored again, not trained again
    test = moved / "photos" / load_data(str(moved / "photos")).test_set("base").keys[0]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("lora*/trained.safetensors")}
    test.write_bytes((moved / "photos" / split["train"][-1][0]).read_bytes())
    open_again()
    third = table(moved, tmp_path / "out", rows, seeds=(1,))
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert third.records[0].data.hash != second.records[0].data.hash


def open_again() -> None:
    """As a new process does: within one, data is listed and hashed once."""
    for cached in (protocols.open_data, cell._task, cell._test_set, cell._task_info, cell._content, cell._whole):
        cached.cache_clear()


def test_cells_of_version_0_are_named_and_left(world: Path, tmp_path: Path) -> None:
    old = tmp_path / "zero-shot-photos-0badcafe" / "records" / "photos-base.json"
    old.parent.mkdir(parents=True)
    old.write_text('{\n "schema": 1,\n "kind": "evaluation"}')
    said: list[str] = []
    assert not table(world, tmp_path, ["zero-shot"], log=said.append).failed
    (line,) = [line for line in said if "version 0.x" in line]
    assert line.startswith(f"{tmp_path} holds 1 cells of version 0.x, such as zero-shot-photos-0badcafe: ")
    with pytest.raises(DataError, match=r"photos-base\.json is an evaluation record of version 0\.x .*evaluate again"):
        load_records(tmp_path)


def test_a_lost_or_broken_record_is_made_again_without_training(world: Path, tmp_path: Path) -> None:
    table(world, tmp_path, [LORA], seeds=(1,))
    before = contents(tmp_path)
    first, second = sorted(tmp_path.glob("*/records/*.json"))
    first.unlink()
    second.write_text("{")
    (weights,) = tmp_path.glob("*/trained.safetensors")
    stamp = weights.stat().st_mtime_ns
    table(world, tmp_path, [LORA], seeds=(1,))
    assert contents(tmp_path) == before
    assert weights.stat().st_mtime_ns == stamp


def test_each_precision_has_its_own_zero_shot(world: Path, tmp_path: Path) -> None:
    for precision in ("fp32", "bf16", "fp32"):
        result = table(world, tmp_path, ["zero-shot"], precision=precision)
        assert {record.precision for record in result.records} == {precision}
    assert len(list(tmp_path.glob("zero-shot*"))) == 2


def test_protocols_share_what_is_trained(world: Path, tmp_path: Path) -> None:
    photos = str(world / "photos")
    result = table(world, tmp_path, [*ROWS[:1], LORA], (1,), few_shot([photos], (1, 2)))
    assert len(list(tmp_path.glob("lora*"))) == 2
    (curve,) = main_table(result.records).sections
    assert (curve.title, curve.columns) == ("photos, few-shot", ("1 shot", "2 shots"))
    zero, lora = curve.rows
    assert zero.cells[0].value == zero.cells[1].value
    assert lora.cells[0].seeds == 1
    crossed = table(
        world, tmp_path, [*ROWS[:1], LORA], (1,), from_source(Source(photos), 2, others=("lab-food", "lab-effects"))
    )
    assert len(list(tmp_path.glob("lora*"))) == 2
    (transfer,) = main_table(crossed.records).sections
    assert transfer.title == "photos to other data"
    assert transfer.columns == ("photos", "lab-food", "lab-effects", "mean of data")
    means = [sum(cell.value or 0 for cell in row.cells[1:3]) / 2 for row in transfer.rows]
    assert [row.cells[3].value for row in transfer.rows] == pytest.approx(means)


def test_other_domains_and_data_after_one_training(world: Path, tmp_path: Path) -> None:
    """A source with two domains; a part of its classes as a data set; a data set of other classes."""
    lines = ["path,label,split,domain"]
    for label in range(5):
        for i in range(12):
            split, domain = ("test" if i % 3 == 0 else "train"), ("snow" if i % 3 == 0 and i > 5 else "sun")
            lines.append(f"class {label}/{i}.png,class {label},{split},{domain}")
    photos, out = Path(shutil.copytree(world / "photos", tmp_path / "photos")), tmp_path / "out"
    (photos / "source.csv").write_text("\n".join(lines))
    few = [
        line.rpartition(",")[0].replace(",train", ",test") for line in lines if line[:7] not in ("class 0", "class 1")
    ]
    (photos / "few.csv").write_text("\n".join(few))
    (photos / "other.csv").write_text("\n".join(few).replace(",class", ",thing"))
    source, same, other = (str(photos / f"{name}.csv") for name in ("source", "few", "other"))
    rows = [ROWS[0], "lora[steps=1,batch_size=6]"]

    shift = make_plan("domain-generalization", [source], shots=[4])
    (section,) = main_table(table(world, out, rows, (1,), shift).records).sections
    assert (section.title, section.columns) == ("source to other domains", ("sun", "snow"))
    robust = make_plan("robust", [source], targets=["snow", same, other])
    result = table(world, out, rows, (1,), robust)
    (section,) = main_table(result.records).sections
    assert section.title == "source to other domains and other data"
    assert section.columns == ("sun", "snow", "few", "mean of domains", "other")
    assert "all training images" in section.caption
    by = {(r.method.name, r.data.name, r.data.domain): r for r in result.records}
    assert by["lora", "other", None].data.templates == ("a photo of a {}.",)
    assert by["lora", "few", None].note == (
        "scored among its own 3 of 5 classes. 24 of 36 test images are also trained or validated on."
    )
    assert by["lora", "source", "snow"].role == "ood"
    assert len(list(out.glob("lora*"))) == 2


def test_fewer_images_than_shots_stand_below_the_table(world: Path, tmp_path: Path) -> None:
    photos = str(world / "photos")
    result = table(world, tmp_path, [*ROWS[:1], LORA], (1,), few_shot([photos], (1, 500)))
    many = [record for record in result.records if record.shots == 500]
    assert many
    assert all("classes have fewer than 500 training images" in record.note for record in many)
    assert not any(record.note for record in result.records if record.shots != 500)
    assert any("fewer than 500" in note for note in main_table(result.records).notes)


def test_between_pretrained_and_trained_weights(world: Path, tmp_path: Path) -> None:
    """Scored after the training is finished too; the ends are the pretrained and the trained model."""
    rows = ["zero-shot", "full[steps=2,batch_size=6,learning_rate=1e-3,warmup_steps=0]", LORA]
    table(world, tmp_path, rows, seeds=(1,))
    (weights,) = tmp_path.glob("full*/trained.safetensors")
    stamp = weights.stat().st_mtime_ns
    result = table(world, tmp_path, rows, seeds=(1,), wise_alphas=(0, 0.5, 1))
    assert weights.stat().st_mtime_ns == stamp
    assert not result.failed
    found = {(r.method.label, r.data.subset): r for r in result.records}
    assert len(found) == 2 * (3 + 3)
    assert not [label for label, _ in found if label.startswith("lora") and "alpha" in label]
    for half in ("base", "new"):
        points = [found[f"{rows[1]}, alpha {alpha}", half] for alpha in ("0", "0.5", "1")]
        assert [point.wise_alpha for point in points] == [0, 0.5, 1]
        assert points[0].metrics == found["zero-shot", half].metrics
        assert points[2].metrics == found[rows[1], half].metrics
        drifts = [point.drift.image.cosine for point in points if point.drift]
        assert pytest.approx(drifts[0]) == 1.0
        assert drifts == sorted(drifts, reverse=True)
    with pytest.raises(SteadyClipError, match="needs a row that trains the model's own weights"):
        table(world, tmp_path, ["zero-shot", LORA], wise_alphas=(0.5,))
    with pytest.raises(SteadyClipError, match="--wise-alphas 2 must be from 0"):
        table(world, tmp_path, rows, wise_alphas=(2,))


def test_a_failed_cell_stops_no_other_and_is_named(world: Path, tmp_path: Path, capsys) -> None:
    bad = "lora[steps=3,batch_size=6,learning_rate=1e6,weight_decay=1e6]"
    result = table(world, tmp_path, [bad, "linear-probe"], seeds=(1,), progress=True)
    assert [r.method.label for r in result.records] == ["linear-probe"] * 2
    ((cell, error),) = result.failed
    assert cell.title == f"{bad}, {world / 'photos'} base, 3-shot, seed 1"
    assert "not finite" in error
    with pytest.raises(SteadyClipError, match="1 cell failed; the same command again tries only this") as caught:
        result.check()
    assert "\n" not in str(caught.value)
    assert "[1/2] lora[" in capsys.readouterr().err


def test_a_bug_leaves_its_traceback(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from steadyclip.training.step import Step

    with monkeypatch.context() as broken:
        broken.setattr(Step, "gradients", lambda *_: 1 / 0)
        result = table(world, tmp_path, [LORA], seeds=(1,))
    ((_, error),) = result.failed
    (trace,) = tmp_path.glob("*/error.txt")
    assert error == f"ZeroDivisionError: division by zero (a bug; the traceback is in {trace})"
    assert "Traceback" in trace.read_text()
    assert not table(world, tmp_path, [LORA], seeds=(1,)).failed
    assert not trace.exists()


@pytest.mark.parametrize("steps", [1, 6])
def test_kill_and_start_again_gives_the_same_records(world: Path, reference: Path, tmp_path: Path, steps: int) -> None:
    process = in_process(killed_after, world, tmp_path, steps)
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert contents(tmp_path) != contents(reference)
    assert not table(world, tmp_path).failed
    assert contents(tmp_path) == contents(reference)


def test_two_grids_on_one_folder(world: Path, reference: Path, tmp_path: Path) -> None:
    both = [in_process(run_table, world, tmp_path) for _ in range(2)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert contents(tmp_path) == contents(reference)
    assert {file.suffix for file in (tmp_path / "locks").iterdir()} == {".lock"}


def test_side_by_side_a_process_that_dies_fails_its_cell_only(
    world: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is killed from outside, as a machine without memory does."""
    killed: list[int] = []

    def wait(pipes):
        if not killed:
            first = min(multiprocessing.active_children(), key=lambda process: process.pid or 0)
            killed.append(first.pid or 0)
            os.kill(killed[0], signal.SIGKILL)
        return connection.wait(pipes)

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(launchers, "wait", wait)
    ((cell, error),) = table(world, tmp_path, jobs=2).failed
    assert (cell.row.label, error) == ("zero-shot", "its process was killed by SIGKILL (out of memory?)")
    assert not table(world, tmp_path, jobs=2).failed
    assert contents(tmp_path) == contents(reference)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_when_a_grid_dies_its_processes_end(world: Path, tmp_path: Path, how: int) -> None:
    process = in_process(run_slow_table, world, tmp_path)
    try:
        locks = until(lambda: list(tmp_path.glob("locks/*.owner")) if len(started(tmp_path)) == 2 else None)
        owners = [json.loads(lock.read_text())["pid"] for lock in locks]
        assert len(set(owners)) == 2
    finally:
        os.kill(process.pid, how)
        process.join()
    until(lambda: not any(map(alive, owners)))
    assert len(list(tmp_path.glob("*/checkpoints/step-*"))) == 2  # saved before they went


def started(out: Path) -> list[Path]:
    return [log for log in out.glob("*/log.jsonl") if log.stat().st_size]


def until(found, seconds: float = 240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := found():
            return result
        time.sleep(0.1)
    raise AssertionError("nothing happened")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def hold(path: Path, ready: Path) -> None:
    with owning(path) as owner:
        assert owner is None
        ready.touch()
        time.sleep(600)


def test_a_lock_names_its_owner_and_dies_with_it(tmp_path: Path) -> None:
    lock, ready = tmp_path / "locks" / "a.lock", tmp_path / "ready"
    process = in_process(hold, lock, ready)
    until(ready.exists)
    with owning(lock) as owner:
        assert owner is not None
        assert owner.startswith(f"process {process.pid} on ")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert lock.with_suffix(".owner").exists()  # what is left of it does not matter
    with owning(lock) as owner:
        assert owner is None
    assert not lock.with_suffix(".owner").exists()


def test_cells_side_by_side_have_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.set_device", taken.append)
    for device, place in (("auto", 0), ("cuda", 1), ("auto", 2), ("cuda:1", 0), ("cpu", 1)):
        launchers.take_gpu(device, place)
    assert taken == [0, 1, 0]


def test_who_waits_for_a_lock_says_for_whom(tmp_path: Path, capsys) -> None:
    lock, ready = tmp_path / "locks" / "a.lock", tmp_path / "ready"
    process = in_process(hold, lock, ready)
    until(ready.exists)
    Timer(0.3, process.kill).start()
    with owning(lock, wait=True) as owner:
        assert owner is None
    process.join()
    assert capsys.readouterr().err == f"waiting for process {process.pid} on {gethostname()}, which holds {lock}\n"


def test_a_folder_that_cannot_be_locked(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(SteadyClipError, match=r"cannot write .*a\.lock: File exists"),
        owning(tmp_path / "file" / "a.lock"),
    ):
        pass


def test_a_cell_that_another_grid_is_at_is_waited_for(world: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(bench, "POLL_SECONDS", 0.05)
    real, tries = launchers.attempt, []

    def busy_twice(each, bench):
        tries.append(each)
        return cell.Outcome(owner="process 7 on elsewhere") if len(tries) < 3 else real(each, bench)

    monkeypatch.setattr(launchers, "attempt", busy_twice)
    result = table(world, tmp_path, ["zero-shot"], progress=True)
    assert len(result.records) == 2
    assert capsys.readouterr().err.count("process 7 on elsewhere is working on it") == 1


def test_submitit_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SteadyClipError, match='pip install "steadyclip\\[slurm\\]"'):
        through_submitit()


def test_through_submitit(world: Path, reference: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    rows = ROWS[:2]  # every cell is a Python of its own
    result = table(world, tmp_path, rows, (1,), launcher=through_submitit({"timeout_min": 5}, "local"))
    assert not result.failed
    found = contents(tmp_path)
    assert len(found) == 4
    assert found == {path: record for path, record in contents(reference).items() if path in found}
