"""What a request asks for: a picture and parameters, in the shapes of the Hugging Face hub."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steadyclip.core.errors import nearest
from steadyclip.deploy.serving.guard import Refusal

MOST_NAMES, MOST_LETTERS, MOST_TEXTS = 1000, 200, 1000
_KNOWN = ("top_k", "candidate_labels", "hypothesis_template", "threshold", "function_to_apply")


@dataclass(frozen=True)
class Asked:
    """One picture, and how it is to be named.

    Attributes:
        names: class names; () for the model's own.
        template: prompt for these.
        top: how many names to give; None for five, or all of those given.
        threshold: None for the calibrated one.
    """

    picture: bytes
    names: tuple[str, ...] = ()
    template: str = ""
    top: int | None = None
    threshold: float | None = None


def kind_of(headers: Mapping[str, str]) -> str:
    """ "image" or "json". Raises Refusal (415) for others."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("image/") or kind == "application/octet-stream":
        return "image"
    if kind == "application/json":
        return "json"
    raise Refusal(
        415,
        f"the content type {kind or '(none)'} is not read: send the bytes of one image as image/*, or JSON with the "
        "image in base64 as application/json.",
    )


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises Refusal (400) where there is none."""
    try:
        content = json.loads(body)
        if b"\\u" in body:  # an escape may stand for half a character, which no answer could repeat
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refusal(400, "the body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise Refusal(400, "the body is no JSON object.")
    return content


def asked_for(kind: str, body: bytes, query: Mapping[str, str]) -> Asked:
    """What a request to /predict asks for.

    Raises:
        Refusal: 400 where there is no picture, 422 where a parameter makes no sense.
    """
    if kind == "image":
        if not body:
            raise Refusal(400, "the body is empty: send the bytes of one image.")
        numbers = {key: _number(key, value) for key, value in query.items() if key in ("top_k", "threshold")}
        return _with_parameters(body, numbers)
    content = parsed(body)
    if unknown := sorted(content.keys() - {"inputs", "parameters", "options"}):
        raise Refusal(422, f"{unknown[0]!r} is not known: inputs and parameters are.")
    parameters = content.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise Refusal(422, "parameters must be a JSON object.")
    return _with_parameters(picture_of(content.get("inputs")), parameters)


def picture_of(value: Any, what: str = "inputs") -> bytes:
    """The bytes of an image in base64. Raises Refusal (400); addresses and paths are never followed."""
    if not isinstance(value, str) or not value:
        raise Refusal(400, f"{what} must be one image in base64.")
    if value.startswith("data:") and ";base64," in value[:100]:
        value = value.partition(",")[2]
    try:
        found = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(
            400, f"{what} is not base64. Send the image itself: addresses and paths are never fetched."
        ) from None
    if not found:
        raise Refusal(400, f"{what} must be one image in base64.")
    return found


def texts_of(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts within the limits. Raises Refusal (422)."""
    if not isinstance(value, list) or not value or not all(isinstance(each, str) and each.strip() for each in value):
        raise Refusal(422, f"{what} must be a list of texts.")
    if len(value) > MOST_NAMES or max(map(len, value)) > MOST_LETTERS:
        raise Refusal(422, f"{what}: at most {MOST_NAMES:,} texts of at most {MOST_LETTERS} characters.")
    return tuple(value)


def _with_parameters(picture: bytes, given: Mapping[str, Any]) -> Asked:
    parameters = {key: value for key, value in given.items() if value is not None}
    if unknown := sorted(parameters.keys() - set(_KNOWN)):
        raise Refusal(422, f"the parameter {unknown[0]!r} is not known.{nearest(unknown[0], _KNOWN)}")
    if parameters.get("function_to_apply", "softmax") != "softmax":
        raise Refusal(422, "function_to_apply must be softmax: that is what was trained.")
    names = parameters.get("candidate_labels", ())
    names = texts_of(names, "candidate_labels") if "candidate_labels" in parameters else ()
    if len(set(names)) < len(names):
        raise Refusal(422, "candidate_labels: a name is given twice.")
    template = parameters.get("hypothesis_template", "")
    if not isinstance(template, str) or (template and (template.count("{}") != 1 or len(template) > MOST_LETTERS)):
        raise Refusal(422, "hypothesis_template must be a text with {} once, where the class name goes.")
    top, threshold = parameters.get("top_k"), parameters.get("threshold")
    if top is not None and (type(top) is not int or top < 1):
        raise Refusal(422, "top_k must be a whole number of 1 or more.")
    if threshold is not None and (type(threshold) not in (int, float) or not 0 <= threshold <= 1):
        raise Refusal(422, "threshold must be a number from 0 to 1.")
    return Asked(picture, names, template, top, threshold)


def _number(key: str, value: str) -> float | int:
    try:
        return int(value) if key == "top_k" else float(value)
    except ValueError:
        raise Refusal(422, f"{key} must be a number, not {value[:40]!r}.") from None
