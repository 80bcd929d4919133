"""No page is wider than its window, on a phone and on a screen, whatever its names are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from steadyclip.evaluation.paired import Difference
from steadyclip.evaluation.records import Record
from steadyclip.report import write_page
from steadyclip.report.compare import Changed, Comparison, OnOneTest, write_comparison

from .test_page import CHROMIUM, browse

LONG = "the_name_of_a_class_that_somebody_took_from_a_file_and_that_does_not_end"
WIDTHS = (400, 1400)
PROBE = """<script>
onload = () => document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
  const page = frame.contentDocument, width = frame.clientWidth;
  const outside = [...page.querySelectorAll("main *")].filter(each =>
    !each.closest(".scroll, svg") && each.getBoundingClientRect().right > width + 1);
  return [frame.getAttribute("src"), width, page.documentElement.scrollWidth - width,
    outside.map(e => e.outerHTML.slice(0, 80)),
    page.querySelectorAll("thead th").length, page.querySelectorAll("th button").length,
    [...page.querySelectorAll("nav a")].filter(link => !page.querySelector(link.getAttribute("href"))).length];
}));
</script>"""


def tuned(make: Callable[..., Record], out: Path) -> Path:
    """What `tune` leaves: a verdict, with classes."""
    before, after = (np.arange(200) % n == 0 for n in (3, 2))
    names = {"classes": (LONG, "猫と犬のいる風景", "fox"), "name": "my-photos-of-the-last-ten-years"}
    records = [make(subset="all", correct=before, **names)]
    label = "lora[rank=4,layers=q:k:v:out,learning_rate=0.0003,epochs=12]"
    records += [make(label, "all", seed=1, shots=16, correct=after, drift=(0.1, 0.1), **names)]
    return write_page(records, out)


def compared(out: Path) -> Path:
    """What `runs compare` writes."""
    changed = tuple(Changed(f"{LONG}/{i}.png", LONG, "a fox", LONG) for i in range(5))
    tests = (
        OnOneTest("my-photos, all", 2200, 71.7, 75.2, Difference(3.5, 1.2, 5.8), changed, ()),
        OnOneTest("lab-people, all", 900, 20.0, 19.0, Difference(-1.0, -3.0, 1.0), None, None),
    )
    settings = (("recipe.learning_rate", "0.001", "0.0001"), ("task.content", "0123456789abcdef" * 3, "f" * 48))
    runs = ("runs/my-photos-tuned-lora-rank-4-layers-q-k-v-seed1", "runs/other")
    return write_comparison(Comparison(runs, settings, tests), out)


def test_the_page_of_two_runs(tmp_path: Path) -> None:
    text = compared(tmp_path / "compare.html").read_text()
    assert '<td class="up">+3.5</td><td>+1.2 to +5.8</td>' in text
    assert '<td class="quiet">\N{MINUS SIGN}1.0</td>' in text
    assert text.count('<article class="card changed">') == 5
    assert '<p class="quiet">none</p>' in text
    assert "is unknown, as one of the runs kept no answers" in text


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser(make: Callable[..., Record], tmp_path: Path) -> None:
    pages = [tuned(make, tmp_path / "tuned.html"), compared(tmp_path / "compare.html")]
    frames = [
        f'<iframe src="{page.name}" style="width:{width}px;height:900px;border:0"></iframe>'
        for page in pages
        for width in WIDTHS
    ]
    (tmp_path / "probe.html").write_text(PROBE + "".join(frames))
    flags = ("--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
    found = re.search(r"<title>(.*?)</title>", browse(tmp_path / "probe.html", tmp_path / "profile", *flags))
    assert found
    seen = json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert [each[:2] for each in seen] == [[page.name, width] for page in pages for width in WIDTHS]
    for name, width, over, outside, heads, buttons, lost in seen:
        assert (over, outside) == (0, []), (name, width)
        assert heads == buttons > 0, f"{name}: every column can be sorted"
        assert lost == 0, f"{name}: the list of contents leads nowhere"
