"""Twenty-five ways to show a thing, and ten colors: the data sets whose classes are attributes, not things."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from steadyclip_lab.drawings.sets import Drawing
from steadyclip_lab.suite.scenes import SIZE, Color, Scene, at, placed, rectangle, shade, text_of

Effect = Callable[[random.Random, Drawing, Color, Color], str]
"""(chance, the drawing, ink, ground) -> what stands on the ground."""

_M = SIZE / 2


def _whole(drawing: Drawing, ink: Color, side: float = 48.0) -> str:
    return at(drawing, ink, side, _M, _M)


def _through(definition: str, attribute: str) -> Effect:
    """The drawing under a filter, mask or pattern named ``it``."""
    return lambda rng, drawing, ink, ground: f"{definition}<g {attribute}>{_whole(drawing, ink)}</g>"


def _masked(holes: str) -> Effect:
    mask = f'<mask id="it"><rect width="{SIZE}" height="{SIZE}" fill="#fff"/>{holes}</mask>'
    return _through(mask, 'mask="url(#it)"')


def _filtered(steps: str) -> Effect:
    return _through(
        f'<filter id="it" x="-20%" y="-20%" width="140%" height="140%">{steps}</filter>', 'filter="url(#it)"'
    )


def _several(places: Sequence[tuple[float, float]], side: float) -> Effect:
    return lambda rng, drawing, ink, ground: "".join(at(drawing, ink, side, x, y) for x, y in places)


def _turned(degrees: float) -> Effect:
    return lambda rng, drawing, ink, ground: at(drawing, ink, 46, _M, _M, degrees + rng.uniform(-6, 6))


def _moved(transform: str) -> Effect:
    return lambda rng, drawing, ink, ground: f'<g transform="{transform}">{_whole(drawing, ink)}</g>'


def _with(over: Callable[[str], str], side: float = 40.0) -> Effect:
    def effect(rng: random.Random, drawing: Drawing, ink: Color, ground: Color) -> str:
        return _whole(drawing, ink, side) + over(text_of(ink))

    return effect


def _in_a(shape: str) -> Effect:
    """The drawing in the ground's color on a shape of ink."""
    return lambda rng, drawing, ink, ground: shape.format(text_of(ink)) + _whole(drawing, ground, 32)


def _shadow(rng: random.Random, drawing: Drawing, ink: Color, ground: Color) -> str:
    gray = (128, 128, 128)
    return f'<g opacity="0.6">{at(drawing, gray, 44, _M + 6, _M + 6)}</g>{at(drawing, ink, 44, _M - 3, _M - 3)}'


def _faint(rng: random.Random, drawing: Drawing, ink: Color, ground: Color) -> str:
    return f'<g opacity="0.14">{_whole(drawing, ink)}</g>'


_STRIPES = "".join(f'<rect y="{y}" width="64" height="3" fill="#000"/>' for y in range(0, 64, 6))
_DOTS = "".join(f'<circle cx="{x}" cy="{y}" r="2" fill="#000"/>' for x in range(2, 64, 6) for y in range(2, 64, 6))
_CHECKS = "".join(
    f'<rect x="{x + 4 * (y // 4 % 2)}" y="{y}" width="4" height="4" fill="#000"/>'
    for x in range(0, 64, 8)
    for y in range(0, 64, 4)
)
_FRAME = '<rect x="4" y="4" width="56" height="56" fill="none" stroke="{0}" stroke-width="4"/>'
_LINE = '<path d="{0}" fill="none" stroke="{1}" stroke-width="5"/>'

EFFECTS: dict[str, Effect] = {
    "striped": _masked(_STRIPES),
    "dotted": _masked(_DOTS),
    "checkered": _masked(_CHECKS),
    "fading": _through(
        '<linearGradient id="fade"><stop offset="0.1" stop-color="#fff"/><stop offset="0.9" stop-color="#000"/>'
        '</linearGradient><mask id="it"><rect width="64" height="64" fill="url(#fade)"/></mask>', 'mask="url(#it)"'
    ),
    "blurred": _filtered('<feGaussianBlur stdDeviation="2.6"/>'),
    "outlined": _filtered(
        '<feMorphology operator="erode" radius="1.4" result="in"/><feComposite in="SourceGraphic" in2="in" '
        'operator="out"/>'
    ),
    "swollen": _filtered('<feMorphology operator="dilate" radius="2.6"/>'),
    "wavy": _filtered(
        '<feTurbulence type="turbulence" baseFrequency="0.05 0.02" numOctaves="1" seed="3"/><feColorMatrix values="1 0 '
        '0 0 0 0 1 0 0 0 0 0 1 0 0 0 0 0 0 1" result="w"/><feDisplacementMap in="SourceGraphic" in2="w" scale="5" '
        'xChannelSelector="R" yChannelSelector="G"/>'
    ),
    "worn": _filtered(
        '<feTurbulence type="fractalNoise" baseFrequency="0.3" numOctaves="1" seed="5"/><feColorMatrix values="0 0 0 0 '
        '0 0 0 0 0 0 0 0 0 0 0 0 9 0 0 -4.2"/><feComposite in="SourceGraphic" operator="in"/>'
    ),
    "cut in half": _masked('<rect x="32" width="32" height="64" fill="#000"/>'),
    "broken": lambda rng, drawing, ink, ground: (
        '<clipPath id="up"><path d="M0 0H64V26L44 38L24 24L0 36z"/></clipPath><clipPath id="down">'
        '<path d="M0 64H64V26L44 38L24 24L0 36z"/></clipPath>'
        f'<g transform="translate(-4 -5)"><g clip-path="url(#up)">{_whole(drawing, ink)}</g></g>'
        f'<g transform="translate(4 5)"><g clip-path="url(#down)">{_whole(drawing, ink)}</g></g>'
    ),
    "tiny": lambda rng, drawing, ink, ground: placed(rng, drawing, ink, rng.uniform(13, 18), 10),
    "enormous": lambda rng, drawing, ink, ground: at(drawing, ink, 110, _M + rng.uniform(-14, 14), _M),
    "doubled": _several(((18, 32), (46, 32)), 27),
    "repeated": _several(tuple((x, y) for x in (11, 32, 53) for y in (11, 32, 53)), 18),
    "stacked": _several(((22, 22), (32, 32), (42, 42)), 34),
    "upside down": _turned(180),
    "lying on its side": _turned(90),
    "stretched": _moved("translate(0 16) scale(1 0.5)"),
    "narrow": _moved("translate(20 0) scale(0.38 1)"),
    "framed": _with(_FRAME.format),
    "crossed out": _with(lambda ink: _LINE.format("M6 6L58 58M58 6L6 58", ink)),
    "on a disk": _in_a('<circle cx="32" cy="32" r="29" fill="{}"/>'),
    "casting a shadow": _shadow,
    "faint": _faint,
}  # fmt: skip
"""Class -> how it is shown."""

COLORS: dict[str, Color] = {
    "red": (215, 30, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 215, 30),
    "green": (35, 150, 60),
    "blue": (35, 85, 210),
    "purple": (125, 45, 165),
    "pink": (245, 130, 185),
    "brown": (120, 75, 35),
    "black": (12, 12, 12),
    "white": (250, 250, 250),
}
"""Color word -> the color in the middle of what it means."""


def shown(effect: str) -> Scene:
    """A thing shown in one of the ways, dark on light or the reverse."""

    def scene(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
        ink, ground = shade(rng, 0, 100), shade(rng, 180, 255)
        if rng.random() < 0.3:
            ink, ground = ground, ink
        return rectangle(ground) + EFFECTS[effect](rng, drawing, ink, ground)

    return scene


def colored(word: str) -> Scene:
    """A thing in about the color of ``word`` on a gray ground."""

    def scene(rng: random.Random, drawing: Drawing, _: Sequence[Drawing] = ()) -> str:
        ink = tuple(min(255, max(0, channel + rng.randint(-18, 18))) for channel in COLORS[word])
        level = rng.randint(60, 80) if rng.random() < 0.4 else rng.randint(165, 205)
        side = SIZE * rng.uniform(0.68, 0.92)
        return rectangle((level, level, level)) + placed(rng, drawing, (ink[0], ink[1], ink[2]), side, 12)

    return scene
