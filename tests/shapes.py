"""Tensor names carry their shape (`image_BD`, `text_CD`); under test, the public functions of the library keep to it.

An import hook wraps them as their module is loaded. `def logits(self, image_BD: Tensor, text_CD: Tensor)` is checked as
if it said `Shaped[Tensor, "B D"]` and `Shaped[Tensor, "C D"]`, and so is what it returns if its `return` names it. So
the annotations stay short, and the library needs neither jaxtyping nor beartype.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from beartype import beartype
from jaxtyping import Shaped, jaxtyped

PACKAGES = ("adapters", "anchors", "data", "evaluation", "heads", "methods", "models", "objectives", "training")
_SUFFIX = re.compile(r"[a-zA-Z]\w*?_(?P<shape>[A-Z][A-Z0-9]*[a-z]*)")
_TENSOR = re.compile(r"(torch\.)?Tensor(?P<optional> \| None)?")


def shape_of(name: str) -> str | None:
    """``image_BD`` -> ``"B D"``; a digit is a fixed size. None if the name says no shape."""
    found = _SUFFIX.fullmatch(name)
    return " ".join(found["shape"]) if found else None


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with its tensors' shapes checked at each call; itself if no name says a shape."""
    shapes = {name: shape for name in function.__annotations__ if (shape := _argument(function, name)) is not None}
    returned = _returned(function) if "Tensor" in str(function.__annotations__.get("return")) else None
    if returned is not None:
        shapes["return"] = returned
    if not shapes:
        return function
    twin = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__dict__.update(function.__dict__)
    twin.__kwdefaults__, twin.__qualname__, twin.__module__ = (
        function.__kwdefaults__,
        function.__qualname__,
        function.__module__,
    )
    twin.__doc__, twin.__annotations__ = function.__doc__, shapes
    strict = jaxtyped(twin, typechecker=beartype)

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        # a graph is compiled from the function itself
        return (function if torch.compiler.is_compiling() else strict)(*args, **kwargs)

    wrapper.checked_shapes = shapes
    return wrapper


def install() -> None:
    """From here on, modules of ``PACKAGES`` and of the lab are wrapped as they are imported."""
    early = [name for name in sys.modules if _ours(name)]
    assert not early, f"imported before the hook was there: {early}"
    sys.meta_path.insert(0, _Finder())


def _argument(function: Callable[..., Any], name: str) -> Any:
    kind = _TENSOR.fullmatch(str(function.__annotations__[name]))
    if name == "return" or kind is None or (shape := shape_of(name)) is None:
        return None
    return Shaped[torch.Tensor, shape] | None if kind["optional"] else Shaped[torch.Tensor, shape]


def _returned(function: Callable[..., Any]) -> Any:
    """The shape in the name behind ``return``; None without one, or if there are several."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    nested = any(isinstance(node, (ast.FunctionDef, ast.Lambda)) for node in ast.walk(tree) if node is not tree)
    if nested or len(values) != 1 or _TENSOR.fullmatch(str(function.__annotations__["return"])) is None:
        return None
    shape = shape_of(values[0].id) if isinstance(values[0], ast.Name) else None
    return None if shape is None else Shaped[torch.Tensor, shape]


def _wrap(module: types.ModuleType) -> None:
    for name, value in list(vars(module).items()):
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if isinstance(value, types.FunctionType):
            setattr(module, name, checked(value))
        elif isinstance(value, type) and not issubclass(value, torch.autograd.Function):
            _wrap_class(value)


def _wrap_class(of: type) -> None:
    for name, value in list(vars(of).items()):
        public = not name.startswith("_") or name == "__call__"
        if public and isinstance(value, (staticmethod, classmethod)):
            setattr(of, name, type(value)(checked(value.__func__)))
        elif public and isinstance(value, types.FunctionType):
            wrapped = checked(value)
            if wrapped is not value:
                setattr(of, name, wrapped)


def _ours(name: str) -> bool:
    first, _, rest = name.partition(".")
    return first == "steadyclip_lab" or (first == "steadyclip" and rest.split(".")[0] in PACKAGES)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target) if _ours(fullname) else None
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: types.ModuleType) -> None:
        super().exec_module(module)
        _wrap(module)
