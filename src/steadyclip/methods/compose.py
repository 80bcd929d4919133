"""Methods put together from pieces: any adapters with any head, objective, streams and average.

A composition is spelled as text, so that it can be typed as a row, recorded, and read back without running anybody's
code: ``Orthogonal(blocks=2) + LowRank(layers=("q", "v"))``, ``CrossEntropy() + 1.5 * Consistency(cross=True)``.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from steadyclip.adapters import AdapterSpec, LowRank
from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.spec import KNOWN, Spec
from steadyclip.heads import HeadSpec, TextHead
from steadyclip.methods.average import Average
from steadyclip.methods.base import Method
from steadyclip.methods.recipe import Recipe
from steadyclip.methods.registry import register
from steadyclip.objectives import CrossEntropy, FeatureL1, Image, Objective, Read, Term, Text, as_objective
from steadyclip.objectives.streams import StreamSpec

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Image": Image, "Text": Text, "FeatureL1": FeatureL1, "Path": Path, "dict": dict, "Recipe": Recipe,
}  # fmt: skip
TEXTS: dict[str, Any] = {
    "adapters": AdapterSpec, "head": HeadSpec, "objective": (Objective, Term), "streams": dict, "average": Average,
}  # fmt: skip
"""Knobs of a composition that spell a piece -> what it must be."""
_DEFAULT = Recipe(learning_rate=1e-4, epochs=10, batch_size=32)


@register
class Composed(Method):
    """What ``compose`` gives, and the row ``compose[adapters=...,objective=...]``.

    Attributes:
        label: how it is called in tables.
        terms: what is minimized.
        sources: (name, stream) pairs.
    """

    name: ClassVar[str] = "compose"
    summary: ClassVar[str] = "a method combined from pieces: adapters, head, objective, streams"
    source: ClassVar[str] = "yours"

    adapters = (LowRank(),)
    recipe = _DEFAULT
    label: str = ""
    """How it is called in tables."""
    terms: Objective = as_objective(CrossEntropy())
    sources: tuple[tuple[str, StreamSpec], ...] = ()

    def objective(self) -> Objective:
        return self.terms

    def streams(self) -> Mapping[str, StreamSpec]:
        return dict(self.sources)

    @property
    def row(self) -> str:
        return self.label or super().row

    def knobs(self) -> dict[str, Any]:
        """The pieces as text: everything that decides the method is in it."""
        adapters = " + ".join(map(spell, self.adapters)) or "()"
        streams = ", ".join(f"{name}={spell(stream)}" for name, stream in self.sources)
        return {
            "label": self.label, "adapters": adapters, "head": spell(self.head), "objective": spell(self.terms),
            "streams": f"dict({streams})" if streams else "", "average": spell(self.average) if self.average else "",
        }  # fmt: skip

    def with_pieces(self, knobs: dict[str, Any]) -> tuple[Composed, dict[str, Any]]:
        """The composition that the texts among ``knobs`` spell, and the other knobs.

        Raises:
            UsageError: a text cannot be read, or is another kind of piece.
        """
        pieces = {"adapters": self.adapters, "head": self.head, "objective": self.terms, "streams": self.streams(),
                  "average": self.average}  # fmt: skip
        for key, kind in TEXTS.items():
            if text := str(knobs.pop(key, "")):
                pieces[key] = _expect(text, kind)
        return compose(str(knobs.pop("label", self.label)), recipe=self.recipe, **pieces), knobs  # type: ignore[arg-type]


def compose(
    label: str,
    *,
    adapters: tuple[AdapterSpec, ...] = (),
    head: HeadSpec = TextHead(),  # noqa: B008 (a value)
    objective: Objective | Term = CrossEntropy(),  # noqa: B008 (a value)
    average: Average | None = None,
    recipe: Recipe | None = _DEFAULT,
    streams: Mapping[str, StreamSpec] | None = None,
) -> Composed:
    """A method from pieces. It is trained, recorded, benched, reloaded and merged like any other.

    Args:
        label: how it is called in tables.
        adapters: what is added to the towers, or which of their weights are trained.
        head: how classes are told apart.
        objective: what is minimized, such as ``CrossEntropy() + 1.5 * Consistency(cross=True)``.
        average: a running average of what is trained.
        recipe: how it is trained unless the user says otherwise; None: by nothing but the head's own solution.
        streams: further data, by the name that views read it under.

    Raises:
        UsageError: a stream is read but not given, or given but not read.
    """
    named = tuple(sorted((streams or {}).items()))
    method = Composed(tuple(adapters), head, average, recipe, label, as_objective(objective), named)
    method.check()
    return method


def spell(value: Any) -> str:
    """A value as text that ``read`` understands; fields at their defaults are left out."""
    if isinstance(value, Objective):
        if value.groups:
            raise UsageError("an objective with groups cannot be spelled as text: make the method a class.")
        return " + ".join(spell(term) if weight == 1 else f"{weight!r} * {spell(term)}" for weight, term in value.parts)
    if isinstance(value, Read) and (value.tower == "image" or value.what == "feature"):
        usual = Image() if value.tower == "image" else Text()
        words = [(n, getattr(value, n)) for n in ("view", "state", "what") if getattr(value, n) != getattr(usual, n)]
        return f"{value.tower.capitalize()}({', '.join(f'{name}={spell(field)}' for name, field in words)})"
    if isinstance(value, Spec):
        fields = [(f.name, getattr(value, f.name), f.default) for f in dataclasses.fields(value)]
        return f"{type(value).__name__}({', '.join(f'{n}={spell(v)}' for n, v, default in fields if v != default)})"
    if isinstance(value, tuple):
        return f"({', '.join(map(spell, value))}{',' if len(value) == 1 else ''})"
    return f"Path({value.as_posix()!r})" if isinstance(value, Path) else repr(value)


def read(text: str) -> Any:
    """The value that ``text`` spells: calls of known pieces with plain arguments, sums and products. Nothing is run.

    Raises:
        UsageError: it cannot be read, or names an unknown piece.
    """
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        raise UsageError(f"{text!r} cannot be read as pieces ({error}): as in CrossEntropy() + 0.5 * L2SP().") from None


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(map(_value, node.elts))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.Name):
        return _piece(node.id)()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        words = {word.arg: _value(word.value) for word in node.keywords if word.arg}
        return _piece(node.func.id)(*map(_value, node.args), **words)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mult):
        left, right = _value(node.left), _value(node.right)
        if isinstance(right, AdapterSpec) and isinstance(node.op, ast.Add):  # several adapters
            return (*(left if isinstance(left, tuple) else (left,)), right)
        return left + right if isinstance(node.op, ast.Add) else left * right
    raise ValueError(f"{ast.unparse(node)} is no piece")


def _piece(name: str) -> Callable[..., Any]:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if name not in KNOWN:
        raise UsageError(f"there is no piece {name!r}.{nearest(name, [*_FUNCTIONS, *KNOWN])}")
    return KNOWN[name]


def _expect(text: str, kind: Any) -> Any:
    """What ``text`` spells, which must be of a ``kind`` of piece; of adapters, all of them."""
    value = read(text)
    if kind is AdapterSpec and not isinstance(value, tuple):
        value = (value,)
    if not all(isinstance(piece, kind) for piece in (value if kind is AdapterSpec else (value,))):
        words = {AdapterSpec: "an adapter, or several as A() + B()", HeadSpec: "a head", Average: "an average",
                 dict: "streams, as dict(a=A())"}  # fmt: skip
        raise UsageError(f"{text!r} must be {words.get(kind, 'an objective')}.")
    return value
