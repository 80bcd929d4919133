from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from steadyclip.core.errors import DataError
from steadyclip.evaluation.records import (
    ClassScore,
    Confusion,
    DataInfo,
    Example,
    MethodInfo,
    Metrics,
    ModelInfo,
    Record,
    Results,
    Run,
    TaskInfo,
    load_records,
)

RECORD = Record(
    created="2026-11-20T10:00:00+00:00",
    versions={"torch": "2.13.0"},
    commit=None,
    model=ModelInfo("icons-small", "clip", "0123456789abcdef"),
    method=MethodInfo("lora", {"rank": 2, "dropout": 0.25}, "lora"),
    training=Run(
        created="2026-11-20T09:00:00+00:00",
        model=ModelInfo("icons-small", "clip", "0123456789abcdef"),
        method=MethodInfo("lora", {"rank": 2, "dropout": 0.25}, "lora"),
        recipe={"steps": 500},
        config={"seed": 1},
        task=TaskInfo("icons", "base", 16, 1, "feed", ("à", "<b>"), ("a {}.",), 32, 8),
        results=Results(500, 9.0, 80.0, loss={"mean": 0.5}),
        versions={},
        commit=None,
    ),
    data=DataInfo("icons", "base", "lines", ("à", "<b>"), ("a {}.",), 3, "feed", (("a/1.png", "0 bytes"),)),
    shots=16,
    seed=1,
    metrics=Metrics(0.5, 0.4, 0.1, (0.3, 0.7)),
    reason=None,
    per_class=(ClassScore("à", 2, 1),),
    confusions=(Confusion("à", "<b>", 1, (Example("a/2.png", "aGk="),)),),
    seconds=1.5,
    images_per_second=2.0,
)


def test_round_trip(tmp_path: Path) -> None:
    assert Record.read(RECORD.write(tmp_path / "deep" / "record.json")) == RECORD


def test_json_begins_with_schema_and_kind() -> None:
    content = json.loads(RECORD.to_json())
    assert list(content)[:2] == ["schema", "kind"]
    assert content["metrics"]["interval95"] == [0.3, 0.7]
    assert content["data"]["skipped"] == [["a/1.png", "0 bytes"]]


def test_reason_without_metrics(tmp_path: Path) -> None:
    record = structs.replace(RECORD, metrics=None, reason="knows no names")
    assert Record.read(record.write(tmp_path / "r.json")) == record


def changed(path: str, value: Any = ...) -> dict[str, Any]:
    """The record's JSON with one field set to another value, or removed."""
    content = json.loads(RECORD.to_json())
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("metrics.top1", "0.5", "'metrics.top1': expected `float`, got `str`: evaluate again"),
        ("metrics.top1", 71.2, r"'metrics.top1': expected `float` <= 1\.0"),
        ("metrics.top1", float("nan"), "not a JSON file"),
        ("metrics.top1", True, "'metrics.top1'"),
        ("metrics.interval95", [0.1], "'metrics.interval95': expected `array` of length 2, got 1"),
        ("metrics", None, "'metrics' and 'reason'"),
        ("data.images", 3.5, "'data.images': expected `int`, got `float`"),
        ("data.classes", "cat", "'data.classes': expected `array`, got `str`"),
        ("data.classes", [1], r"'data.classes\[0\]': expected `str`, got `int`"),
        ("data", [], "'data': expected `object`, got `array`"),
        ("versions.torch", 2, r"'versions\[\.\.\.\]': expected `str`, got `int`"),
        ("model.weights_hash", ..., "'model.weights_hash' is missing"),
        ("created", ..., "'created' is missing"),
        ("surprise", 1, "'surprise' is unknown: evaluate again"),
        ("training.task.shots", "16", "'training.task.shots': expected `int | null`, got `str`"),
        ("training.task.content", ..., "'training.task.content' is missing"),
        ("training.results.speed", 1, "'training.results.speed' is unknown"),
        ("training.schema", 1, "'training.schema': invalid enum value 1"),
        ("confusions", [{"true": "a"}], r"'confusions\[0\].predicted' is missing"),
        ("schema", 1, r"of version 0\.x \(schema 1\).*: evaluate again"),
        ("schema", 3, "'schema' is 3 and this version reads 2"),
        ("schema", True, "'schema' is True"),
        ("kind", "run", "not an evaluation record"),
    ],
)
def test_malformed_records_name_file_and_field(tmp_path: Path, path: str, value: Any, named: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(changed(path, value) | {"checksum": None}))
    with pytest.raises(DataError, match=named) as error:
        Record.read(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b'{"kind": "evalu', b"\xff\xfe", b"[1]"])
def test_files_that_are_no_record(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.json"):
        Record.read(tmp_path / "bad.json")


def test_load_records_from_files_and_folders(tmp_path: Path) -> None:
    other = structs.replace(RECORD, seed=2)
    first, second = RECORD.write(tmp_path / "runs/a/base.json"), other.write(tmp_path / "runs/b/base.json")
    (tmp_path / "runs/a/run.json").write_text('{"kind": "run"}')
    (tmp_path / "runs/a/list.json").write_text("[]")
    assert load_records(tmp_path) == [RECORD, other]
    assert load_records([second, tmp_path / "runs", first]) == [other, RECORD]


def test_load_records_refuses_a_broken_file_in_a_folder(tmp_path: Path) -> None:
    RECORD.write(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(RECORD.to_json()[:200])
    with pytest.raises(DataError, match=r"b\.json"):
        load_records(tmp_path)


def test_load_records_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="steadyclip evaluate"):
        load_records(tmp_path)
    with pytest.raises(DataError, match=r"gone\.json"):
        load_records(tmp_path / "gone.json")
