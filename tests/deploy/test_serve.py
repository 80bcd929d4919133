"""The service over a real socket: its answers are the predictor's, its errors are one sentence, its end is orderly."""

import base64
import contextlib
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from PIL import Image

import steadyclip as sc
from steadyclip.cli import main

from .conftest import serving

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
TOKEN = "a long secret"


@pytest.fixture(scope="module")
def port(run_of) -> Iterator[int]:
    with serving(run_of(), "--max-waiting", "200") as (port, _):
        yield port


@pytest.fixture(scope="module")
def picture(photos: Path) -> bytes:
    return sorted(photos.rglob("*.png"))[30].read_bytes()


def send(
    port: int, method: str, path: str, body: bytes | str | None = None, kind: str = "image/png", **headers: str
) -> tuple[int, dict, http.client.HTTPMessage]:
    """Status, JSON and headers of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, {"content-type": kind, **named})
        answer = connection.getresponse()
        content = answer.read()
        is_json = answer.headers.get("content-type", "") == "application/json"
        return answer.status, json.loads(content) if is_json else {"text": content.decode()}, answer.headers
    finally:
        connection.close()


def as_json(**content) -> str:
    return json.dumps(content)


def test_it_answers_as_the_predictor_in_any_batch(port: int, run_of, photos: Path) -> None:
    predictor = sc.Predictor(run_of())
    files = sorted(photos.rglob("*.png"))[::3]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda path: send(port, "POST", "/predict", path.read_bytes()), files * 2))
    for (status, answers, headers), want in zip(found, predictor(files * 2), strict=True):
        assert status == 200
        assert [answer["label"] for answer in answers] == list(want.names)
        assert np.allclose([answer["score"] for answer in answers], want.probabilities, atol=1e-6)
        assert unquote(headers["x-label"]) == want.label
        assert headers["x-model"] == predictor.hash
    batches = [line for line in send(port, "GET", "/metrics")[1]["text"].splitlines() if "batch_rows_bucket" in line]
    ones = float(next(line for line in batches if 'le="1.0"' in line).split()[1])
    assert ones < float(batches[-1].split()[1])  # some images shared a pass


def test_the_interfaces_of_the_hub(port: int, run_of, picture: bytes) -> None:
    client = pytest.importorskip("huggingface_hub").InferenceClient(model=f"http://127.0.0.1:{port}/predict", token="x")
    predictor = sc.Predictor(run_of())
    found, want = client.image_classification(picture, top_k=2), predictor(picture, top=2)
    assert [(each.label, pytest.approx(each.score, abs=1e-6)) for each in found] == list(
        zip(want.names, want.probabilities, strict=True)
    )
    names, template = ["day", "night", "noon"], "it is {}."
    found = client.zero_shot_image_classification(picture, candidate_labels=names, hypothesis_template=template)
    want = predictor.with_names(names, [template])(picture)
    assert [each.label for each in found] == list(want.names)
    assert [each.score for each in found] == pytest.approx(want.probabilities, abs=1e-6)


def test_features_and_the_open_inference_protocol(port: int, run_of, picture: bytes) -> None:
    predictor = sc.Predictor(run_of())
    status, found, _ = send(port, "POST", "/embed", picture)
    assert (status, found["dim"]) == (200, 24)
    assert np.allclose(found["embeddings"][0], predictor.embed(picture), atol=1e-6)
    found = send(port, "POST", "/embed", as_json(texts=["a day"]), "application/json")[1]
    assert np.allclose(found["embeddings"], predictor.embed_text(["a day"]), atol=1e-6)
    name = run_of().name
    assert send(port, "GET", "/v2/health/live")[1] == {"live": True}
    assert send(port, "GET", f"/v2/models/{name}/ready")[1] == {"name": name, "ready": True}
    about = send(port, "GET", f"/v2/models/{name}")[1]
    assert about["outputs"][0]["shape"] == [-1, 4]
    data = [base64.b64encode(picture).decode()] * 2
    body = as_json(id="7", inputs=[{"name": "image", "datatype": "BYTES", "shape": [2], "data": data}])
    status, found, _ = send(port, "POST", f"/v2/models/{name}/infer", body, "application/json")
    assert (status, found["id"], found["outputs"][0]["shape"]) == (200, "7", [2, 4])
    row = dict(zip(predictor.names, found["outputs"][0]["data"][:4], strict=True))
    assert max(row.values()) == pytest.approx(predictor(picture).score, abs=1e-6)
    assert send(port, "GET", f"/v2/models/{name}x")[0] == 404


def large_header() -> bytes:
    """A small PNG that says it has 900 million pixels."""
    buffer = io.BytesIO()
    Image.new("1", (30000, 30000)).save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


B64 = base64.b64encode(b"text").decode()


@pytest.mark.parametrize(
    ("body", "kind", "path", "status", "sentence"),
    [
        (b"", "image/png", "/predict", 400, "the body is empty"),
        (b"text", "image/png", "/predict", 400, "the image cannot be read: not an image that Pillow can read"),
        (b"\x89PNG\r\n\x1a\n", "image/png", "/predict", 400, "the image cannot be read"),
        (b"{", "application/json", "/predict", 400, "the body is not valid JSON"),
        (b"[" * 100_000, "application/json", "/predict", 400, "the body is not valid JSON"),
        (rb'{"id": "\ud800"}', "application/json", "/predict", 400, "the body is not valid JSON"),
        (b"[]", "application/json", "/predict", 400, "the body is no JSON object"),
        (b"{}", "application/json", "/predict", 400, "inputs must be one image in base64"),
        (as_json(inputs="http://127.0.0.1/x.png"), "application/json", "/predict", 400, "paths are never fetched"),
        (as_json(inputs="/etc/passwd"), "application/json", "/predict", 400, "paths are never fetched"),
        (as_json(inputs=B64, parameters={"topk": 3}), "application/json", "/predict", 422, "Did you mean 'top_k'?"),
        (as_json(inputs=B64, parameters={"top_k": 0}), "application/json", "/predict", 422, "top_k must be a whole"),
        (as_json(inputs=B64, parameters={"top_k": True}), "application/json", "/predict", 422, "top_k must be a whole"),
        (as_json(inputs=B64, parameters={"threshold": 3}), "application/json", "/predict", 422, "from 0 to 1"),
        (as_json(inputs=B64, parameters={"candidate_labels": ["a"] * 2}), "application/json", "/predict", 422, "twice"),
        (as_json(inputs=B64, parameters={"candidate_labels": ["a"] * 1001}), "application/json", "/predict", 422, "at"),
        (as_json(inputs=B64, parameters={"hypothesis_template": "x"}), "application/json", "/predict", 422, "{} once"),
        (as_json(inputs=B64, more=1), "application/json", "/predict", 422, "'more' is not known"),
        (b"x", "multipart/form-data; boundary=x", "/predict", 415, "multipart/form-data is not read"),
        (b"x", "text/plain", "/embed", 415, "text/plain is not read"),
        (as_json(texts=[]), "application/json", "/embed", 422, "texts must be a list of texts"),
        (b"x" * (11 * 2**20), "image/png", "/predict", 413, "the body is larger than 10 MiB"),
        (large_header(), "image/png", "/predict", 413, "at most 40,000,000 are decoded"),
        (b"x", "image/png", "/predict?top_k=many", 422, "top_k must be a number"),
        (b"x", "image/png", "/nowhere", 404, "there is nothing at this path"),
        (b"x", "image/png", "/predict?before=2", 400, "the image cannot be read"),
    ],
)  # fmt: skip
def test_errors(body, kind: str, path: str, status: int, sentence: str, port: int) -> None:
    found, answer, headers = send(port, "POST", path, body, kind)
    assert (found, list(answer)) == (status, ["error"])
    assert sentence in answer["error"]
    assert headers["content-type"] == "application/json"


def test_a_body_without_a_length_is_counted(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        start = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/png\r\ntransfer-encoding: chunked\r\n\r\n"
        connection.sendall(start)
        with contextlib.suppress(OSError):
            for _ in range(12):
                connection.sendall(b"100000\r\n" + b"x" * 2**20 + b"\r\n")
        assert b" 413 " in connection.recv(200)


def test_the_page_and_the_description(port: int, picture: bytes) -> None:
    status, answer, headers = send(port, "GET", "/")
    assert (status, "Choose an image" in answer["text"]) == (200, True)
    assert not re.search(r"https?://", answer["text"])  # no foreign request
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "/predict" in send(port, "GET", "/openapi.json")[1]["paths"]
    about = send(port, "GET", "/about")[1]
    assert about["before"] is True
    before = send(port, "POST", "/predict?before=1", picture)[1]
    assert before != send(port, "POST", "/predict", picture)[1]
    assert {answer["label"] for answer in before} == set(about["classes"])


def test_many_at_once_are_answered_or_turned_away(port: int, picture: bytes) -> None:
    with ThreadPoolExecutor(300) as pool:
        found = Counter(
            status for status, *_ in pool.map(lambda _: send(port, "POST", "/predict", picture), range(300))
        )
    assert found.keys() <= {200, 503}
    assert found[200] + found[503] == 300
    assert found[200] >= 200
    assert send(port, "POST", "/predict", picture)[0] == 200


def test_malformed_requests_leave_it_up(port: int, picture: bytes) -> None:
    rng = random.Random(0)
    heads = [
        "POST /predict HTTP/1.1",
        "GET /%00%ff HTTP/1.1",
        "POST /embed HTTP/9.9",
        "nonsense",
        "POST /predict HTTP/1.1",
    ]
    for _ in range(300):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            body = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
            cut = picture[: rng.randrange(len(picture))]
            length = rng.choice([len(cut), -1, 10**12, "x"])
            head = f"{rng.choice(heads)}\r\nhost: x\r\ncontent-type: image/png\r\ncontent-length: {length}\r\n\r\n"
            connection.sendall(head.encode() + rng.choice([body, cut]))
            connection.settimeout(rng.choice([0.001, 0.01]))
            connection.recv(100)
    status, answer, _ = send(port, "POST", "/predict", picture)
    assert (status, len(answer)) == (200, 4)


def test_a_token(run_of, picture: bytes, tmp_path: Path, capsys) -> None:
    with serving(run_of(), "--no-before", token=TOKEN) as (port, _):
        status, answer, headers = send(port, "POST", "/predict", picture)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert "a token is needed" in answer["error"]
        assert send(port, "POST", "/predict", picture, authorization="Bearer wrong")[0] == 401
        assert send(port, "POST", "/predict", picture, authorization=f"Bearer {TOKEN}")[0] == 200
        assert send(port, "POST", "/predict?before=1", picture, authorization=f"Bearer {TOKEN}")[0] == 404
        assert [send(port, "GET", path)[0] for path in ("/", "/v2/health/ready", "/metrics")] == [200, 200, 401]
    words = ["serve", str(run_of()), "--host", "0.0.0.0"]
    assert main(words) == 2
    assert "others can reach 0.0.0.0: name a token with --token-file or STEADYCLIP_TOKEN" in capsys.readouterr().err
    (tmp_path / "empty").write_text("\n")
    assert main([*words, "--token-file", str(tmp_path / "empty")]) == 2
    assert "is empty: write a token into it" in capsys.readouterr().err


def test_told_to_end_it_finishes_what_is_in_work(run_of, picture: bytes, capsys) -> None:
    with serving(run_of(), "--no-before", "--max-wait-ms", "1500") as (port, process):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            assert main(["serve", str(run_of()), "--port", str(taken.getsockname()[1]), "--no-before"]) == 1
            assert "it is taken, or not of this computer" in capsys.readouterr().err
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(send(port, "POST", "/predict", picture)[0]))
        asking.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        asking.join(timeout=20)
        assert found == [200]


@pytest.mark.heavy
def test_a_decoding_process_that_dies_is_replaced(run_of, picture: bytes) -> None:
    with serving(run_of(), "--no-before", "--workers", "1") as (port, process):
        want = send(port, "POST", "/predict", picture)[1]
        for _ in range(2):
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            assert workers
            for pid in workers:
                os.kill(int(pid), signal.SIGKILL)
            found = [send(port, "POST", "/predict", picture) for _ in range(3)]
            assert {status for status, *_ in found} <= {200, 503}
            assert found[-1][:2] == (200, want)


@pytest.mark.heavy
def test_the_command_of_the_compose_file(run_of, tmp_path: Path) -> None:
    docker = Path(__file__).parents[2] / "docker"
    words = yaml.safe_load((docker / "compose.yaml").read_text())["services"]["steadyclip"]["command"]
    (job,) = yaml.safe_load((docker / "prometheus.yml").read_text())["scrape_configs"]
    assert job["authorization"]["credentials_file"] == words[-1] == "/run/secrets/token"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    here = {"0.0.0.0": "127.0.0.1", words[-1]: str(tmp_path / "token")}
    verb, model, *options = [here.get(word, word) for word in words]
    assert (verb, model) == ("serve", "/model")
    with serving(run_of(), *options) as (port, _):
        status, answer, _ = send(port, "GET", "/metrics", authorization=f"Bearer {TOKEN}")
        assert status == 200
        assert "steadyclip_requests" in answer["text"]
        assert send(port, "GET", "/metrics")[0] == 401
