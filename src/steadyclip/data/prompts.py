"""Prompt templates: the hand-made ones of the field's data sets, and checks on a user's own.

Source of the per-data-set templates: CoOp (Zhou et al., 2022), `trainers/zsclip.py`. Source of the 80 for ImageNet:
CLIP (Radford et al., 2021), notebook "Prompt engineering for ImageNet".
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
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


_ID = re.compile(r"[A-Za-z]?[\d\W_]*\d[\d\W_]*")
_NUMBERED = re.compile(r"\d+[\W_]+[^\W\d]")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def as_trained(text: str, family: str) -> str:
    """A text as the checkpoints of a family were trained on it; not every saved tokenizer does that itself."""
    if family == "siglip":  # big_vision's "canonicalize"
        return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
    return text.lower() if family == "siglip2" else text


def doubtful_names(classes: Sequence[str]) -> Iterator[str]:
    """Remarks on class names from which prompts would tell a model little, or that it could hardly tell apart."""

    for what, like in {"look like numbers or ids": _ID.fullmatch, "begin with a number": _NUMBERED.match}.items():
        if found := list(filter(like, classes)):
            few = f"{len(found)} of {len(classes)}, for instance {found[0]!r}"
            yield f"class names that {what}: {few}; prompts are made from them, so use real names"
    first = {name.split()[0] for name in classes}
    if len(first) == 1 and all(" " in name for name in classes):
        yield f"all class names begin with {first.pop()!r}: leave it out, as it would stand in every prompt"
    alike: dict[str, list[str]] = {}
    for name in classes:
        letters = unicodedata.normalize("NFKD", name.casefold())
        alike.setdefault("".join(filter(str.isalnum, letters)).removesuffix("s"), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"class names that hardly differ: {', '.join(map(repr, names))}; merge them, or name the difference"


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
