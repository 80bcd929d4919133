"""Reads the icon sets of the npm package ``@iconify/json`` as drawings: who drew it, in which style, under which name.

Only the recipe that makes the shipped files needs the package; everything else reads those files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadyclip.core.errors import DataError

VERSION = "2.2.535"
"""The version of the package that everything was made from."""

TRAIN = {"phosphor": ("ph",), "remix": ("ri",), "openmoji": ("openmoji",), "twemoji": ("twemoji",)}
TEST = {
    "lucide": ("lucide",),
    "font-awesome": ("fa7-solid", "fa7-regular", "fa7-brands"),
    "fluent": ("fluent",),
    "ionicons": ("ion",),
    "lineicons": ("lineicons",),
    "noto": ("noto",),
    "fluent-emoji": ("fluent-emoji-flat", "fluent-emoji-high-contrast"),
    "simple-icons": ("simple-icons",),
}
DOWNSTREAM = {name: team for teams in (TRAIN, TEST) for team, names in teams.items() for name in names}
"""Set -> its team, for the half that trains and tests."""

PERMISSIVE = {
    *("MIT", "Apache-2.0", "ISC", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "OFL-1.1", "Unlicense")
}
"""SPDX names of the licenses that a pretraining set may have."""

RELATIVES = {
    "feather": "lucide", "lucide-lab": "lucide", "la": "font-awesome", "fa6-solid": "font-awesome",
    "fa6-regular": "font-awesome", "fa6-brands": "font-awesome", "fa-solid": "font-awesome",
    "fa-regular": "font-awesome", "fa-brands": "font-awesome", "fa": "font-awesome", "famicons": "ionicons",
    "fluent-mdl2": "fluent", "fluent-color": "fluent", "noto-v1": "noto", "fluent-emoji": "fluent-emoji",
}  # fmt: skip
"""Sets of a downstream team, or grown out of one of its sets -> that team: never used for pretraining."""

LOGOS = ("devicon", "devicon-plain", "skill-icons", "gcp", "k8s", "unjs", "vscode-icons", "material-icon-theme",
         "file-icons", "catppuccin", "nonicons")  # fmt: skip
"""Sets of marks of products that the metadata's category does not tell."""

MOST = 5000
"""Drawings that a pretraining set gives at most, chosen by the hash of their keys."""

_STYLES = {
    *("outline", "outlined", "outlines", "stroke", "line", "linear", "baseline", "filled", "fill", "solid", "duo"),
    *("duotone", "twotone", "thin", "light", "regular", "bold", "round", "rounded", "sharp"),
}
_SKIN = re.compile(r"skin-tone|-tone-?\d|-(?:(?:medium-)?(?:dark|light)|medium)$")
_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
"""Of a set that says nothing, by the format's rules."""
_WORD = re.compile(r"[a-z]{3}")


@dataclass(frozen=True)
class Drawing:
    """One SVG of one team."""

    set: str
    team: str
    """The set's name for pretraining sets."""
    name: str
    """Lower-case words joined by hyphens, without the style: ``arrow-up``."""
    icon: str
    """The name in the set, unique there."""
    body: str
    box: tuple[float, float, float, float]
    """Left, top, width, height of the view box."""
    colored: bool
    """The drawing brings its own colors; all others take the color that they are given."""
    style: str = ""
    """The words that the set's names end or begin with: ``outline``, ``bold``; empty where there are none."""
    also: tuple[str, ...] = ()
    """Other names by the set's own aliases, as words."""
    categories: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Unique over all sets: ``ph:acorn-bold``."""
        return f"{self.set}:{self.icon}"

    @property
    def text(self) -> str:
        """The name as words: ``arrow up``."""
        return self.name.replace("-", " ")

    @property
    def is_brand(self) -> bool:
        """The drawing is a logo: its name means a product, not a thing."""
        return self.set in ("simple-icons", "fa7-brands") or self.icon.find("-logo") > 0 or "logos" in self.categories

    @property
    def svg(self) -> str:
        """A whole SVG document, square: a drawing that is not square stands in the middle."""
        left, top, width, height = self.box
        side = max(width, height)
        box = " ".join(f"{n:g}" for n in (left - (side - width) / 2, top - (side - height) / 2, side, side))
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{self.body}</svg>'

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the SVG."""
        return hashlib.sha256(self.svg.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Package:
    """The unpacked npm package in ``folder``."""

    folder: Path

    def __post_init__(self) -> None:
        about = self.folder / "package.json"
        if not about.is_file():
            raise DataError(f"{self.folder} is no unpacked npm package @iconify/json: it has no package.json.")
        version = json.loads(about.read_text())["version"]
        if version != VERSION:
            raise DataError(f"{self.folder} holds version {version} of @iconify/json; the lists here are of {VERSION}.")

    def about(self) -> dict[str, dict[str, Any]]:
        """Set -> its metadata: name, author, license, palette, category."""
        return json.loads((self.folder / "collections.json").read_text(encoding="utf-8"))

    def pretraining_sets(self) -> list[str]:
        """The sets that pretrain: permissive, not downstream, no relatives, no logos, nothing that moves."""
        return sorted(
            name
            for name, about in self.about().items()
            if about["license"].get("spdx") in PERMISSIVE
            and name not in DOWNSTREAM
            and name not in RELATIVES
            and about.get("category") != "Logos"
            and name not in LOGOS
            and "Contains Animations" not in about.get("tags", ())
        )

    def drawings(self, name: str) -> list[Drawing]:
        """The drawings of a set, sorted by key, without hidden ones and other tones of skin.

        Raises:
            DataError: the package has no such set.
        """
        path = self.folder / "json" / f"{name}.json"
        if not path.is_file():
            raise DataError(f"the set {name} has vanished from @iconify/json: {path} is not there.")
        data = json.loads(path.read_text(encoding="utf-8"))
        colored = bool(data["info"].get("palette"))
        icons = {icon: one for icon, one in data["icons"].items() if not one.get("hidden")}
        if data["info"].get("category") == "Emoji":
            icons = {icon: one for icon, one in icons.items() if not _SKIN.search(icon)}
        if name == "fluent":
            icons = {icon: icons[icon] for icon in _nearest_24(icons)}
        styles = _names(icons, data.get("suffixes") or {}, data.get("prefixes") or {})
        also: dict[str, list[str]] = {}
        for alias, one in (data.get("aliases") or {}).items():
            # a turned or mirrored drawing is another thing
            if set(one) == {"parent"}:
                also.setdefault(one["parent"], []).append(alias.replace("-", " "))
        categories: dict[str, list[str]] = {}
        for category, members in (data.get("categories") or {}).items():
            for icon in members:
                categories.setdefault(icon, []).append(category.lower())
        return [
            Drawing(
                set=name,
                team=DOWNSTREAM.get(name, name),
                style=styles[icon][0],
                name=styles[icon][1],
                icon=icon,
                body=one["body"],
                box=_box(data | one),
                colored=colored,
                also=tuple(also.get(icon, ())),
                categories=tuple(categories.get(icon, ())),
            )
            for icon, one in sorted(icons.items())
            if _WORD.search(styles[icon][1])
        ]


def capped(drawings: Iterable[Drawing], most: int = MOST) -> list[Drawing]:
    """At most ``most`` of them, by the SHA-256 of their keys; in the order of their keys."""
    chosen = sorted(drawings, key=lambda one: hashlib.sha256(one.key.encode()).hexdigest())[:most]
    return sorted(chosen, key=lambda one: one.key)


def _box(about: dict[str, Any]) -> tuple[float, float, float, float]:
    left, top, width, height = (float(about.get(key, by_default)) for key, by_default in _BOX.items())
    return left, top, width, height


def _names(icons: Iterable[str], suffixes: dict[str, str], prefixes: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Icon -> style, name.

    The rule: the suffix or prefix that the set's metadata lists goes; then the last words that are a number or tell a
    style go ("bell-outline-2"), if the set has the rest under more than one name ("traffic-light" stays).
    """
    listed = {icon: _listed(icon, suffixes, prefixes) for icon in icons}
    stems = Counter(_stem(name)[1] for name in {name for _, name in listed.values()})
    found = {}
    for icon, (style, name) in listed.items():
        last, stem = _stem(name)
        found[icon] = ("-".join(filter(None, (style, last))), stem) if stems[stem] > 1 else (style, name)
    return found


def _listed(icon: str, suffixes: dict[str, str], prefixes: dict[str, str]) -> tuple[str, str]:
    for suffix in sorted(filter(None, suffixes), key=len, reverse=True):
        if icon.endswith(f"-{suffix}"):
            return suffix, icon[: -len(suffix) - 1]
    for prefix in sorted(filter(None, prefixes), key=len, reverse=True):
        if icon.startswith(f"{prefix}-"):
            return prefix, icon[len(prefix) + 1 :]
    return "", icon


def _stem(name: str) -> tuple[str, str]:
    words = name.split("-")
    cut = len(words)
    while cut > 1 and (words[cut - 1] in _STYLES or words[cut - 1].removesuffix("px").isdigit()):
        cut -= 1
    return "-".join(words[cut:]), "-".join(words[:cut])


def _nearest_24(icons: Iterable[str]) -> Iterator[str]:
    """Of each drawing that fluent has in several sizes, the one nearest to 24 pixels (the larger of two)."""
    sizes: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
    for icon in icons:
        if match := re.fullmatch(r"(.*)-(\d+)-(filled|regular|light)", icon):
            size = int(match[2])
            sizes.setdefault((match[1], match[3]), []).append((abs(size - 24), -size, icon))
    return (min(found)[2] for found in sizes.values())
