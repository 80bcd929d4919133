"""Drawings to images: each sample is one SVG, drawn by resvg, so that it has the same bytes on every machine.

resvg is a software renderer without system fonts or a GPU. A scene decides ground, size, place, ink and what else is
seen; everything that is left to chance comes from the `random.Random` of the sample.
"""

from __future__ import annotations

import base64
import io
import math
import random
from collections.abc import Callable, Sequence

import numpy as np

from steadyclip.core.errors import DataError
from steadyclip_lab.drawings.sets import Drawing

SIZE = 64
"""Width and height of a sample in pixels."""

Color = tuple[int, int, int]
Scene = Callable[[random.Random, Drawing, Sequence[Drawing]], str]
"""(chance, the drawing, other drawings to put around it) -> the content of an SVG of ``SIZE`` x ``SIZE``."""


def render(content: str, key: str) -> bytes:
    """PNG bytes of ``SIZE`` x ``SIZE`` opaque pixels.

    Raises:
        DataError: resvg cannot draw it.
    """
    import resvg_py

    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {SIZE} {SIZE}">{content}</svg>'
    )
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE, skip_system_fonts=True))
    except ValueError as error:
        raise DataError(f"{key} cannot be drawn: {error}") from None


def plain(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
    """A dark drawing on a light ground or the reverse, upright and large."""
    dark, light = shade(rng, 0, 110), shade(rng, 170, 255)
    reverse = rng.random() < 0.3 and not drawing.colored
    ink, ground = (light, dark) if reverse else (dark, light)
    side = SIZE * rng.uniform(0.68, 0.92)
    return rectangle(ground) + placed(rng, drawing, ink, side, degrees=12)


def wild(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
    """Smaller, anywhere, on a texture of the other brightness."""
    ground, ink = textured(rng, light_only=drawing.colored)
    return ground + placed(rng, drawing, ink, rng.uniform(36, 56), degrees=20)


def clutter(rng: random.Random, drawing: Drawing, strangers: Sequence[Drawing]) -> str:
    """As in the wild, over two to four small drawings of other things."""
    ground, ink = textured(rng, light_only=drawing.colored)
    behind = ""
    for _ in range(rng.randint(2, 4)):
        stranger = strangers[rng.randrange(len(strangers))]
        other = placed(rng, stranger, shade(rng, 0, 255), rng.uniform(12, 22), degrees=180)
        behind += f'<g opacity="{rng.uniform(0.35, 0.85):.3f}">{other}</g>'
    return ground + behind + placed(rng, drawing, ink, rng.uniform(34, 54), degrees=20)


def sketch(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
    """By hand on paper: the strokes tremble and leave holes."""
    paper, ink = shade(rng, 225, 255), shade(rng, 20, 90)
    wave, scale, grain = rng.uniform(0.04, 0.07), rng.uniform(2.5, 4), rng.uniform(0.25, 0.5)
    seeds = rng.randrange(1000), rng.randrange(1000)
    opaque = '<feColorMatrix values="1 0 0 0 0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 1" result="{0}"/>'
    hand = (
        '<filter id="hand" x="-20%" y="-20%" width="140%" height="140%">'
        f'<feTurbulence type="fractalNoise" baseFrequency="{wave:.4f}" numOctaves="2" seed="{seeds[0]}"/>'
        + opaque.format("wave")
        + f'<feDisplacementMap in="SourceGraphic" in2="wave" scale="{scale:.3f}" xChannelSelector="R" '
        'yChannelSelector="G" result="moved"/>'
        f'<feTurbulence type="fractalNoise" baseFrequency="{grain:.4f}" numOctaves="1" seed="{seeds[1]}"/>'
        '<feColorMatrix values="0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 9 0 0 0 -2.6"/>'
        '<feComposite in="moved" operator="in"/></filter>'
    )
    side = SIZE * rng.uniform(0.68, 0.92)
    return f'{hand}{rectangle(paper)}<g filter="url(#hand)">{placed(rng, drawing, ink, side, degrees=12)}</g>'


def night(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
    """Small, dim and out of focus on a dark ground."""
    ground = noise(rng, shade(rng, 0, 60), shade(rng, 0, 60))
    ink = shade(rng, 95, 160)
    shown = placed(rng, drawing, ink, rng.uniform(26, 44), degrees=20)
    blur = f'<filter id="blur"><feGaussianBlur stdDeviation="{rng.uniform(0.5, 1.1):.3f}"/></filter>'
    return f'{ground}{blur}<g filter="url(#blur)">{shown}</g>'


def shade(rng: random.Random, low: int, high: int) -> Color:
    """A color whose channels lie between ``low`` and ``high``."""
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def text_of(color: Color) -> str:
    """``#rrggbb``."""
    return "#" + "".join(f"{channel:02x}" for channel in color)


def rectangle(color: Color) -> str:
    """The whole ground in one color."""
    return f'<rect width="{SIZE}" height="{SIZE}" fill="{text_of(color)}"/>'


def placed(rng: random.Random, drawing: Drawing, ink: Color, side: float, degrees: float) -> str:
    """The drawing ``side`` pixels wide, turned by up to ``degrees``, somewhere within the image."""
    room = (SIZE - side) / 2
    x, y = SIZE / 2 + rng.uniform(-room, room), SIZE / 2 + rng.uniform(-room, room)
    return at(drawing, ink, side, x, y, rng.uniform(-degrees, degrees))


def at(drawing: Drawing, ink: Color, side: float, x: float, y: float, degrees: float = 0.0) -> str:
    """The drawing with its middle at (x, y); one that brings no colors takes the ink."""
    head, _, body = drawing.svg.partition(">")
    color = "" if drawing.colored else f' fill="{text_of(ink)}" color="{text_of(ink)}"'
    return (
        f'<g{color} transform="rotate({degrees:.3f} {x:.3f} {y:.3f})">{head} x="{x - side / 2:.3f}" '
        f'y="{y - side / 2:.3f}" width="{side:.3f}" height="{side:.3f}">{body}</g>'
    )


def textured(rng: random.Random, light_only: bool = False) -> tuple[str, Color]:
    """A ground of two colors of one brightness, and an ink of the other."""
    light = rng.random() < 0.5 or light_only
    bounds = (140, 255) if light else (0, 115)
    one, two = shade(rng, *bounds), shade(rng, *bounds)
    ink = shade(rng, 0, 80) if light else shade(rng, 185, 255)
    kind = rng.randrange(7)
    if kind < 3:
        return noise(rng, one, two), ink
    return _pattern(rng, ("stripes", "dots", "checks", "gradient")[kind - 3], one, two), ink


def noise(rng: random.Random, one: Color, two: Color) -> str:
    """Three coarse random images between the colors, drawn large over each other; two in five are stretched."""
    wide, high = 1.0, 1.0
    if rng.random() < 0.4:
        wide, high = (5.0, 1.0) if rng.random() < 0.5 else (1.0, 5.0)
    layers = ""
    for opacity in (1, 0.5, 0.35):
        side = rng.randint(3, 40)
        image = _random_image(rng, max(2, round(side / wide)), max(2, round(side / high)), one, two)
        layers += (
            f'<image width="{SIZE}" height="{SIZE}" preserveAspectRatio="none" opacity="{opacity}" '
            f'xlink:href="data:image/png;base64,{image}"/>'
        )
    return rectangle(one) + layers


def _random_image(rng: random.Random, width: int, height: int, one: Color, two: Color) -> str:
    from PIL import Image

    share_HW1 = np.frombuffer(rng.randbytes(width * height), np.uint8).reshape(height, width, 1) / 255
    pixels_HW3 = np.rint(np.array(one) + (np.array(two) - np.array(one)) * share_HW1).astype(np.uint8)
    Image.fromarray(pixels_HW3).save(out := io.BytesIO(), format="PNG")
    return base64.b64encode(out.getvalue()).decode()


def _pattern(rng: random.Random, kind: str, one: Color, two: Color) -> str:
    first, second = text_of(one), text_of(two)
    turn = f"rotate({rng.uniform(0, 180):.2f})"
    if kind == "gradient":
        angle = rng.uniform(0, 2 * math.pi)
        x, y = 0.5 + math.cos(angle) / 2, 0.5 + math.sin(angle) / 2
        return (
            f'<linearGradient id="ground" x1="{1 - x:.3f}" y1="{1 - y:.3f}" x2="{x:.3f}" y2="{y:.3f}">'
            f'<stop stop-color="{first}"/><stop offset="1" stop-color="{second}"/></linearGradient>'
            f'<rect width="{SIZE}" height="{SIZE}" fill="url(#ground)"/>'
        )
    period = rng.uniform(4, 14)
    half = period / 2
    shapes = {
        "stripes": f'<rect width="{half:.2f}" height="{period:.2f}" fill="{second}"/>',
        "dots": f'<circle cx="{half:.2f}" cy="{half:.2f}" r="{period * 0.3:.2f}" fill="{second}"/>',
        "checks": f'<rect width="{half:.2f}" height="{half:.2f}" fill="{second}"/>'
        f'<rect x="{half:.2f}" y="{half:.2f}" width="{half:.2f}" height="{half:.2f}" fill="{second}"/>',
    }
    return (
        f'<pattern id="ground" width="{period:.2f}" height="{period:.2f}" patternUnits="userSpaceOnUse" '
        f'patternTransform="{turn}"><rect width="{period:.2f}" height="{period:.2f}" fill="{first}"/>{shapes[kind]}'
        f'</pattern><rect width="{SIZE}" height="{SIZE}" fill="url(#ground)"/>'
    )


SCENES: dict[str, Scene] = {"plain": plain, "wild": wild, "clutter": clutter, "sketch": sketch, "night": night}
