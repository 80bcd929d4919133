"""Drawings to pixels, by resvg: colors and pose are written into the SVG, so one call renders the finished sample.

resvg is a software renderer without system fonts or a GPU: the same SVG gives the same bytes on every machine.
"""

from __future__ import annotations

import importlib.util
import random
import re
from dataclasses import dataclass

from steadyclip.core.errors import DataError
from steadyclip_lab.icons.packs import Drawing

SIZE = 64
"""Width and height of a sample in pixels."""


@dataclass(frozen=True)
class Look:
    """How a drawing is shown. ``scale`` is the drawing's share of the image's width."""

    color: str = "#000000"
    background: str = "#ffffff"
    scale: float = 0.875
    degrees: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    """In pixels, right and down."""


PLAIN = Look()
"""Black on white, upright and centered: what the pretraining pairs are kept as; training varies them."""


def random_look(seed: str, dark_ground: float = 0.3) -> Look:
    """A dark drawing on a light ground or the reverse, scaled, turned and shifted a little; fixed by the seed.

    ``dark_ground`` is the share of dark backgrounds.
    """
    rng = random.Random(seed)
    dark, light = _shade(rng, 0, 110), _shade(rng, 170, 255)
    color, background = (dark, light) if rng.random() < 1 - dark_ground else (light, dark)
    scale = rng.uniform(0.68, 0.92)
    room = (1 - scale) * SIZE / 2
    shift = (rng.uniform(-room, room), rng.uniform(-room, room))
    return Look(color, background, scale, rng.uniform(-12, 12), shift)


def _shade(rng: random.Random, low: int, high: int) -> str:
    return "#" + "".join(f"{rng.randint(low, high):02x}" for _ in range(3))


def render(drawing: Drawing, look: Look = PLAIN, size: int = SIZE) -> bytes:
    """PNG bytes of ``size`` x ``size`` opaque pixels.

    Raises:
        DataError: resvg-py is not installed, or the SVG cannot be drawn.
    """
    if importlib.util.find_spec("resvg_py") is None:
        raise DataError("drawings are rendered by resvg-py, which is not installed: pip install resvg-py.")
    import resvg_py

    try:
        return bytes(
            resvg_py.svg_to_bytes(svg_string=_compose(drawing, look), width=size, height=size, skip_system_fonts=True)
        )
    except ValueError as error:
        raise DataError(f"{drawing.key} cannot be drawn: {error}") from None


def _compose(drawing: Drawing, look: Look) -> str:
    side = SIZE * look.scale
    corner = (SIZE - side) / 2
    inner = re.sub(r"<\?xml.*?\?>|<!--.*?-->|<!DOCTYPE.*?>", "", drawing.svg, flags=re.DOTALL).strip()
    # the outer svg decides the size: the drawing's own width and height go
    head, _, body = inner.partition(">")
    head = re.sub(r'\s(width|height|x|y)="[^"]*"', "", head)
    ink = "" if drawing.colored else f' fill="{look.color}" color="{look.color}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}">'
        f'<rect width="{SIZE}" height="{SIZE}" fill="{look.background}"/>'
        f'<g{ink} transform="translate({look.shift[0]:.3f} {look.shift[1]:.3f})'
        f' rotate({look.degrees:.3f} {SIZE / 2} {SIZE / 2})">'
        f'{head} x="{corner:.3f}" y="{corner:.3f}" width="{side:.3f}" height="{side:.3f}">{body}</g></svg>'
    )
