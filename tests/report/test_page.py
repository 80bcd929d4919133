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

from steadyclip.core.errors import DataError, SteadyClipError
from steadyclip.evaluation.records import Record
from steadyclip.report import main_table, write_page
from steadyclip.report.page import short_labels

from .conftest import PROTOCOLS

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
    "--enable-logging=stderr",
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
    records = [
        make(
            "probe", "all", 0.5, seed=seed, knobs={"sweep": [0.1, 1.0]},
            choices={"strength": strength, "validation": {"1.0": 0.5}},
        )
        for seed, strength in enumerate((0.316, 1.0), 1)
    ]  # fmt: skip
    text = Tags(page(records, tmp_path)).text
    assert "0.316 / 1" in text
    assert "0.1, 1" in text


@pytest.mark.parametrize("top1", [0.5, None])
def test_a_single_record_is_a_page(make: Make, tmp_path: Path, top1: float | None) -> None:
    assert Tags(page([make("full", "base", top1, seed=1)], tmp_path)).open == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_is_a_page(grid: Callable[[str], list[Record]], tmp_path: Path, protocol: str) -> None:
    text = page(grid(protocol), tmp_path)
    assert Tags(text).open == []
    headings = re.findall("<h2>(.*?)</h2>", text)
    charts = {
        "base-to-new": ["Base and new", "Drift and forgetting"],
        "few-shot": ["Accuracy over shots"],
        "cross-dataset": ["Drift and forgetting"],
        "domain-generalization": ["Under shift"],
        "robust": ["Under shift", "Drift and forgetting"],
    }
    assert headings[0] == "Results"
    assert headings[1:-4] == charts[protocol]
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_confusions_of_data_sets_with_the_same_domain_stay_apart(
    grid: Callable[[str], list[Record]], tmp_path: Path
) -> None:
    text = Tags(page([r for r in grid("cross-dataset") if r.method.name == "full"], tmp_path)).text
    errors = text[text.rindex("What is confused") : text.rindex("Settings")]
    assert sum(f"icon-{name}\n" in errors for name in ("food", "nature", "objects", "symbols", "transport")) >= 4


def test_a_curve_of_averages_is_not_shown_picture_by_picture(make: Make, tmp_path: Path) -> None:
    records = [make("full", "all", 0.6, seed=1)]
    records += [make("full", "all", 0.5 + a / 10, seed=1, wise_alpha=a) for a in (0.0, 0.5, 1.0)]
    text = Tags(page(records, tmp_path)).text
    errors = text[text.rindex("What is confused") :]
    assert "full, alpha 0.5" in text[: text.rindex("What is confused")]
    assert "alpha 0.5" not in errors[: errors.index("Every evaluation")]


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
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said  # no error of the script, nothing that the policy of the page refused
    return done.stdout


# Runs beside the page, not in it: reports what a reader would notice, and does what a reader would do.
PROBE = """<body style="margin:0"><iframe id=f src="page.html" style="width:360px;height:900px;border:0"></iframe>
<script>
f.onload = () => {
  const d = f.contentDocument, e = d.documentElement, w = d.defaultView;
  const table = d.querySelector(".section table"), box = d.querySelector(".section .scroll");
  const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].textContent.trim());
  const sorted = column => {
    const head = table.tHead.rows[0].cells[column];
    head.querySelector("button").click();
    return [head.getAttribute("aria-sort"), table.querySelectorAll("[aria-sort]").length, ...names()];
  };
  const seen = {
    overflow: e.scrollWidth - 360, tables: d.querySelectorAll("table").length,
    heads: d.querySelectorAll("thead th").length, buttons: d.querySelectorAll("th button[type=button]").length,
    broken: [...d.images].filter(i => !i.complete || !i.naturalWidth).length, images: d.images.length,
    charts: [...d.querySelectorAll("svg.chart")].map(c => Math.round(c.getBoundingClientRect().width)),
    fill: w.getComputedStyle(d.querySelector('svg.chart [style*="fill: var(--c1)"]')).fill,
    before: names(), numbers: sorted(1), again: sorted(1), words: sorted(0),
    missing: sorted(table.rows[0].cells.length - 1),
    wide: box.scrollWidth - box.clientWidth };
  box.scrollLeft = 10000;
  seen.sticky = Math.round(table.rows[1].cells[0].getBoundingClientRect().left - box.getBoundingClientRect().left);
  document.title = JSON.stringify(seen);
}
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
class TestInABrowser:
    def test_on_a_phone(self, grid: Callable[[str], list[Record]], tmp_path: Path) -> None:
        records = grid("cross-dataset")
        page(records, tmp_path)
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
        assert all(300 < width <= 320 for width in seen["charts"])
        assert len(seen["charts"]) == 1
        assert seen["fill"] == "rgb(63, 111, 168)"
        # a wide table scrolls in its own box, and the names of its rows stay
        assert seen["wide"] > 100
        assert seen["sticky"] == 0
        # every header is a button that sorts by the numbers of its column, the highest first
        assert (seen["tables"], seen["buttons"]) == (2, seen["heads"])
        (section,) = main_table(records).sections
        best = [row.label for row in sorted(section.rows, key=lambda row: -(row.cells[0].value or 0))]
        assert seen["before"] == [row.label for row in section.rows]
        value = {row.label: round(row.cells[0].value or 0, 1) for row in section.rows}
        assert seen["numbers"][:2] == ["descending", 1]
        assert [value[label] for label in seen["numbers"][2:]] == sorted(value.values(), reverse=True)
        assert seen["again"][:2] == ["ascending", 1]
        assert sorted(seen["again"][2:]) == sorted(value)
        assert [value[label] for label in seen["again"][2:]] == sorted(value.values())  # as printed
        in_words = sorted(best, key=lambda name: name.replace("+", "."))  # for people a plus comes after a hyphen
        assert seen["words"] == ["ascending", 1, *in_words]
        assert seen["missing"][-1] == "linear-probe"  # has no score there

    def test_on_paper(self, grid: Callable[[str], list[Record]], tmp_path: Path) -> None:
        page(grid("robust"), tmp_path)
        out = tmp_path / "page.pdf"
        browse(tmp_path / "page.html", tmp_path / "profile", "--no-pdf-header-footer", f"--print-to-pdf={out}")
        assert out.stat().st_size > 10_000

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


def test_long_names_of_rows_are_in_a_legend(make: Make, tmp_path: Path) -> None:
    long = ["lora[rank=4,layers=q:v,epochs=5]", "lora[rank=8,layers=q:v,epochs=5]", "orthcr[l1=2,learning_rate=0.001]"]
    records = [make("zero-shot", "all", 0.5), make("lora", "all", 0.5, seed=1)]
    records += [make(label, "all", 0.6, seed=1) for label in long]
    table, legend = short_labels(main_table(records))
    assert legend == {"lora (2)": long[0], "lora (3)": long[1], "orthcr": long[2]}
    assert [row.label for row in table.sections[0].rows] == ["zero-shot", "lora", *legend]
    assert [row.label for row in main_table(records).sections[0].rows] == ["zero-shot", "lora", *long]
    text = Tags(page(records, tmp_path)).text
    assert all(text.count(label) == 1 for label in long)
