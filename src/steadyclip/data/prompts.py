"""Prompt templates: the hand-made ones of the field's data sets, and checks on a user's own.

Source of the per-data-set templates: CoOp (Zhou et al., 2022), `trainers/zsclip.py`. Source of the 80 for ImageNet:
CLIP (Radford et al., 2021), notebook "Prompt engineering for ImageNet".
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from steadyclip.core.errors import UsageError, nearest

DEFAULT_TEMPLATE = "a photo of a {}."

_HAND = {
    "OxfordPets": "a photo of a {}, a type of pet.",
    "OxfordFlowers": "a photo of a {}, a type of flower.",
    "FGVCAircraft": "a photo of a {}, a type of aircraft.",
    "DescribableTextures": "{} texture.",
    "EuroSAT": "a centered satellite photo of {}.",
    "StanfordCars": DEFAULT_TEMPLATE,
    "Food101": "a photo of {}, a type of food.",
    "SUN397": DEFAULT_TEMPLATE,
    "Caltech101": DEFAULT_TEMPLATE,
    "UCF101": "a photo of a person doing {}.",
    "ImageNet": DEFAULT_TEMPLATE,
}


def imagenet_80() -> tuple[str, ...]:
    """CLIP's 80 templates for ImageNet."""
    return tuple((files("steadyclip.data") / "imagenet-80.txt").read_text(encoding="utf-8").splitlines())


def templates_for(data_set: str) -> tuple[str, ...]:
    """The hand template of one of CoOp's data sets (by the name in its split file), else the default."""
    return (_HAND.get(data_set, DEFAULT_TEMPLATE),)


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """A user's template or templates, or the named set ("imagenet-80", "Food101", ...), as a checked tuple.

    Raises:
        UsageError: a template without exactly one ``{}``, none at all, or an unknown name.
    """
    if isinstance(templates, str):
        known = {**{name: (template,) for name, template in _HAND.items()}, "imagenet-80": imagenet_80()}
        if templates in known:
            return known[templates]
        if "{" not in templates:
            raise UsageError(
                f"template {templates!r} has no {{}} for the class name, and no template set is called that."
                f"{nearest(templates, known)}"
            )
        templates = [templates]
    for template in templates:
        if template.count("{}") != 1 or template.replace("{}", "").count("{"):
            raise UsageError(f"template {template!r} must hold {{}} exactly once, where the class name goes.")
    if not templates:
        raise UsageError("no templates were given: one is needed at least, such as 'a photo of a {}.'")
    return tuple(templates)
