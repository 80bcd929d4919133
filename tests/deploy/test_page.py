"""The page in a real browser: of the service, and of a folder that runs the model in the browser. Neither asks another
host, nor needs a mouse."""

import base64
import io
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import steadyclip as sc
from steadyclip.core.errors import UsageError
from steadyclip.data.pixels import Pixels
from steadyclip.deploy import export
from steadyclip.deploy.web_target import scripts

from .conftest import serving

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RUNTIME = os.environ.get("STEADYCLIP_ONNXRUNTIME_WEB")  # folder of the npm package; `make test-web` sets it
WITH_BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def browser():
    """Chromium of the system, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture
def page(browser) -> Iterator:
    """A page on which any request to another host, and any error, fails the test."""
    page, wrong = browser.new_page(), []
    page.set_default_timeout(120_000)
    page.on("request", lambda request: wrong.append(request.url) if not is_own(request.url) else None)
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    page.close()
    assert wrong == []


def is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "blob:http://127.0.0.1:", "data:"))


@pytest.fixture(scope="module")
def hosted() -> Iterator[Callable[[Path], str]]:
    """The address of a folder on a plain web server."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None: ...

    servers = []

    def host(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    yield host
    for server in servers:
        server.shutdown()
        server.server_close()


SIZES = [(37, 91), (224, 50), (160, 120), (33, 32), (31, 200)]
TRANSFORMS = [
    *(Pixels((32, 32), "shortest", (32, 32), True, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), each)
      for each in ("bicubic", "bilinear", "lanczos", "hamming", "box")),
    Pixels((32, 32), "squash", (32, 32), False, (0.5,) * 3, (0.5,) * 3),
    Pixels((24, 24), "shortest", (33, 33), True, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), crop_rounding="even"),
]  # fmt: skip
IN_SCRIPT = """async ([size, rgb, about]) => {
  const { levels, normalized } = await import("/pixels.js");
  const seen = levels(Uint8Array.from(atob(rgb), c => c.charCodeAt(0)), size[0], size[1], about);
  return [Array.from(seen.levels), Array.from(normalized(seen, about))];
}"""


@WITH_BROWSER
@pytest.mark.heavy
def test_the_script_resizes_as_pillow_does(page, hosted, tmp_path: Path) -> None:
    (tmp_path / "pixels.js").write_text(scripts()["pixels.js"])
    (tmp_path / "index.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    page.goto(hosted(tmp_path))
    rng = np.random.default_rng(0)
    for size in SIZES:
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
        for pixels in TRANSFORMS:
            about = {name: getattr(pixels, name) for name in pixels.__dataclass_fields__}
            found, numbers = page.evaluate(IN_SCRIPT, [size, base64.b64encode(image.tobytes()).decode(), about])
            want = pixels.levels(image)
            assert np.array_equal(np.array(found, np.uint8).reshape(want.shape), want), (size, pixels)
            assert np.array_equal(np.float32(numbers), pixels.normalized(want).ravel()), (size, pixels)


@pytest.fixture(scope="module")
def calibrated(run_of, photos: Path) -> Iterator[Path]:
    """A run with a threshold."""
    from steadyclip.cli import main

    run = run_of("lora[steps=4,learning_rate=0.05]")
    assert main(["calibrate", str(run), "--data", str(photos), "--keep", "0.8"]) == 0
    yield run
    (run / "calibration.json").unlink()


def pictures(photos: Path) -> list[tuple[str, bytes]]:
    """A PNG, a turned JPEG, a transparent and a gray image."""
    first, second = (Image.open(path) for path in sorted(photos.rglob("*.png"))[3:60:40])
    turned, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    first.save(turned, "JPEG", quality=95, exif=exif)
    clear = second.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(clear.size))
    found = [("plain.png", first), ("clear.png", clear), ("gray.png", second.convert("L"))]
    return [("turned.jpg", turned.getvalue()), *((name, as_png(image)) for name, image in found)]


def as_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def as_file(name: str, content: bytes) -> dict:
    """As Playwright wants it."""
    kind = {".jpg": "image/jpeg", ".png": "image/png", ".txt": "text/plain"}[Path(name).suffix]
    return {"name": name, "mimeType": kind, "buffer": content}


# The dialog of the system is not opened: a browser opens one at a time, for all tests.
CAUGHT = """document.getElementById("file").addEventListener("click", event => {
  event.preventDefault();
  globalThis.asked = true;
})"""


def shown(page, column: int) -> tuple[str, dict[str, float]]:
    """Label and probabilities in a column of answers."""
    section = page.locator("#answers section").nth(column)
    section.wait_for()
    words = [line.inner_text().split("\n") for line in section.locator("li").all()]
    scores = {name: float(score.removesuffix(" %")) / 100 for name, score in words}
    return section.locator("h2 strong").inner_text(), scores


@WITH_BROWSER
@pytest.mark.heavy
@pytest.mark.parametrize("width", [360, 1400])
def test_the_page_of_the_service(width: int, page, calibrated: Path, photos: Path) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    name, content = pictures(photos)[1]
    predictor = sc.Predictor(calibrated)
    with serving(calibrated) as (port, _):
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_text("It tells 4 classes apart. Below a probability of").wait_for()
        page.keyboard.press("Tab")  # no mouse
        assert page.evaluate("document.activeElement.id") == "file"
        page.evaluate(CAUGHT)
        page.keyboard.press("Enter")
        page.wait_for_function("globalThis.asked")
        page.locator("#file").set_input_files(as_file(name, content))
        page.get_by_text("After training").wait_for()
        (label, scores), want = shown(page, 1), predictor(content)
        assert label == (want.label or "unsure")
        assert scores == pytest.approx(dict(zip(want.names, want.probabilities, strict=True)), abs=6e-4)
        assert shown(page, 0)[1] != scores  # before the training
        assert page.locator("#answers section").nth(1).locator("u").count() == 4  # the threshold on each bar
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        boxes = [page.locator("#answers section").nth(i).bounding_box() for i in (0, 1)]
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1400)  # side by side where there is room
        look(page, f"service-{width}")


@WITH_BROWSER
@pytest.mark.skipif(RUNTIME is None, reason="STEADYCLIP_ONNXRUNTIME_WEB names no onnxruntime-web: make test-web")
@pytest.mark.heavy
def test_the_folder_for_a_browser(page, hosted, calibrated: Path, data, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "web"
    info = export(calibrated, "web", folder, data=data, check=6, runtime=Path(str(RUNTIME)), before=True)
    assert info.checks.pop("page")["checked"] is False
    assert {figures["equal_first_names"] for figures in info.checks.values()} == {6}
    assert not any(str(tmp_path) in path.read_text("utf-8", "ignore") for path in folder.iterdir())
    predictor = sc.Predictor(calibrated)
    page.set_viewport_size({"width": 360, "height": 900})
    for name, content in pictures(photos):
        page.goto(hosted(folder))
        page.get_by_text("It tells 4 classes apart").wait_for()
        page.locator("#file").set_input_files(as_file(name, content))
        page.get_by_text("After training").wait_for()
        exact = page.evaluate(
            "async bytes => (await backend.predict(new Blob([new Uint8Array(bytes)]), false)).answers", list(content)
        )
        want = predictor(content)
        near = 1e-4 if name in ("plain.png", "gray.png") else 5e-3  # decoders and blending differ by a level
        found = {answer["label"]: answer["score"] for answer in exact}
        assert found == pytest.approx(dict(zip(want.names, want.probabilities, strict=True)), abs=near), name
        assert shown(page, 1)[0] == (want.label or "unsure")
    look(page, "web-360")
    page.locator("#file").set_input_files(as_file("notes.txt", b"no image"))
    page.get_by_text("This browser cannot read the file as an image.").wait_for()
    assert page.locator("#answers section").count() == 0


def look(page, name: str) -> None:
    """Screenshots, light and dark, where STEADYCLIP_SCREENSHOTS names a folder."""
    if folder := os.environ.get("STEADYCLIP_SCREENSHOTS"):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=f"{folder}/{name}-{scheme}.png", full_page=True)


def test_what_a_browser_cannot_have(run_of, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    for runtime, line in (
        (None, "needs the files of onnxruntime-web: npm install"),
        (tmp_path, "has no dist/ort.wasm"),
    ):
        with pytest.raises(UsageError, match=line):
            export(run_of(), "web", tmp_path / "export", check=2, runtime=runtime)
    with pytest.raises(UsageError, match="--runtime belongs to --to web, not to --to hf"):
        export(run_of(), "hf", tmp_path / "export", check=2, runtime=tmp_path)
    assert not list(tmp_path.iterdir())
