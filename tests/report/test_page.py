from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from steadyclip.errors import DataError, SteadyClipError
from steadyclip.evaluation.records import Record
from steadyclip.report import write_page

Make = Callable[..., Record]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


class Tags(html.parser.HTMLParser):
    """Checks that tags close in order, and collects what matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "link", "br", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "path":
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]):
            self.text += data


def page(records: list[Record], tmp_path: Path, title: str | None = None) -> str:
    return write_page(records, tmp_path / "page.html", title).read_text(encoding="utf-8")


def test_the_page_is_whole(experiment: list[Record], tmp_path: Path) -> None:
    tags = Tags(page(experiment, tmp_path, "Base to new on icons"))
    assert tags.open == []
    for text in (
        "Base to new on icons",
        "full gains 12.3 points on base and loses 8.1 points on new.",
        "16 shots; seeds 1, 2, 3; 900 base images, 1100 new images",
        "a linear probe knows no names",
        "63.1 to 69.1",  # interval of the first seed of full
        "learning rate",
        "0.0002",
        "2.13.0",
        "0123456789abcdef",
    ):
        assert text in tags.text


def test_nothing_comes_from_outside(experiment: list[Record], tmp_path: Path) -> None:
    text = page(experiment, tmp_path)
    links = Tags(text).links
    assert links
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in links)
    assert "default-src 'none'" in text
    assert not re.findall(r"url\((?!#)", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert "unsafe-inline'; script-src" in text  # for styles only
    assert not re.search(r"\son\w+=", text)


def test_the_same_records_give_the_same_bytes(experiment: list[Record], tmp_path: Path) -> None:
    assert page(experiment, tmp_path) == page(experiment, tmp_path)


def test_all_text_is_escaped(make: Make, tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>&\"'</style></title>{{ 7 * 7 }}"
    records = [
        make(evil, half, 0.5, seed=1, name=evil, classes=(evil, "a & b"), knobs={evil: evil}, note=evil, domain=evil)
        for half in ("base", "new", "all")
    ]
    text = page(records, tmp_path, title=evil)
    tags = Tags(text)
    assert tags.open == []
    assert "<img src=x" not in text
    assert "{{ 7 * 7 }}" in tags.text
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in tags.links)


def test_mixed_versions_are_said(experiment: list[Record], make: Make, tmp_path: Path) -> None:
    assert "different versions" not in page(experiment, tmp_path)
    text = page([*experiment, make("late", "base", 0.5, seed=1, torch="2.14.0")], tmp_path)
    assert "The records come from different versions of torch." in text
    assert "2.13.0, 2.14.0" in text


def test_settings_that_seeds_chose_differently(make: Make, tmp_path: Path) -> None:
    records = [make("probe", "all", 0.5, seed=1, knobs={"sweep": [0.1, 1.0]}), make("probe", "all", 0.5, seed=2)]
    for strength, record in zip((0.316, 1.0), records, strict=True):
        assert record.training is not None
        record.training["choices"] = {"strength": strength, "validation": {"1.0": 0.5}}
    text = Tags(page(records, tmp_path)).text
    assert "0.316 / 1" in text
    assert "0.1, 1" in text


@pytest.mark.parametrize("top1", [0.5, None])
def test_a_single_record_is_a_page(make: Make, tmp_path: Path, top1: float | None) -> None:
    assert Tags(page([make("full", "base", top1, seed=1)], tmp_path)).open == []


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        write_page([], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_out_cannot_be_written(experiment: list[Record], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SteadyClipError, match="cannot write"):
        write_page(experiment, tmp_path / "file" / "page.html")


def browse(file: Path, profile: Path, *flags: str) -> str:
    assert CHROMIUM
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, file.as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(profile)}
    )
    assert "violates the following Content Security Policy" not in done.stderr
    return done.stdout


# Runs beside the page, not in it: reports what a reader would notice.
PROBE = """<body style="margin:0"><iframe id=f src="page.html" style="width:390px;height:900px;border:0"></iframe>
<script>
f.onload = () => { const d = f.contentDocument, e = d.documentElement; document.title = JSON.stringify({
  overflow: e.scrollWidth - 390,
  broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).length, images: d.images.length,
  chart: Math.round(d.querySelector('svg.chart').getBoundingClientRect().width),
  bar: d.defaultView.getComputedStyle(d.querySelector('svg.chart path[style*="fill: var(--base)"]')).fill }) }
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
class TestInABrowser:
    def test_it_fits_a_phone_and_shows_its_pictures(self, experiment: list[Record], tmp_path: Path) -> None:
        page(experiment, tmp_path)
        (tmp_path / "probe.html").write_text(PROBE)
        dom = browse(
            tmp_path / "probe.html",
            tmp_path / "profile",
            "--allow-file-access-from-files",
            "--virtual-time-budget=5000",
            "--dump-dom",
        )
        found = re.search(r"<title>(.*?)</title>", dom)
        assert found, dom
        seen = json.loads(found.group(1))
        assert seen["overflow"] <= 0
        assert (seen["broken"], seen["images"] > 20) == (0, True)
        assert 300 < seen["chart"] <= 350
        assert seen["bar"] == "rgb(63, 111, 168)"

    @pytest.mark.parametrize(("scheme", "bright"), [(1, True), (0, False)])
    def test_it_follows_light_and_dark(
        self, experiment: list[Record], tmp_path: Path, scheme: int, bright: bool
    ) -> None:
        page(experiment, tmp_path)
        shot = tmp_path / "shot.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,900", f"--screenshot={shot}")
        browse(tmp_path / "page.html", tmp_path / "profile", *flags)
        image = Image.open(shot).convert("L")
        corner = image.getpixel((5, 5))
        assert isinstance(corner, int)
        assert (corner > 240) if bright else (corner < 40)
        darkest, brightest = image.getextrema()
        assert isinstance(darkest, int)
        assert isinstance(brightest, int)
        assert brightest - darkest > 150  # there is something to read
