"""Where methods are found: this package, installed packages, and a file that the user names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from steadyclip.core.errors import UsageError, nearest
from steadyclip.core.extensions import METHODS, absent, distribution, extensions, load_extension
from steadyclip.core.files import expanded
from steadyclip.methods.base import Method
from steadyclip.methods.knobs import with_knobs

M = TypeVar("M", bound=type[Method])

_REGISTRY: dict[str, type[Method]] = {}
_ORIGINS: dict[str, str] = {}


def register(cls: M, origin: str = "") -> M:
    """Class decorator: the definition is the registry entry, and its ``name`` the id. ``origin`` says where a method
    that is not part of this package comes from, for messages."""
    if not cls.name:
        raise ValueError(f"{cls.__name__} has no name")
    known = _REGISTRY.get(cls.name, cls)
    if known.__module__ != cls.__module__:
        raise UsageError(f"two methods are named {cls.name!r} ({known.__module__} and {cls.__module__}): rename one.")
    _REGISTRY[cls.name] = cls
    if origin:
        _ORIGINS[cls.name] = origin
    return cls


def methods() -> dict[str, type[Method]]:
    """All methods by name, those of installed packages included; a broken package is one warning line."""
    for name in extensions(METHODS):
        _load(name)
    return dict(sorted(_REGISTRY.items()))


def origin_of(name: str) -> str:
    """The package or file of a method that is not part of this one; "" for its own."""
    return _ORIGINS.get(name, "")


def find_method(name: str) -> type[Method] | Method:
    """The method ``name``: a registry id, or ``path/to/mine.py:Mine``, a file that is run.

    Raises:
        UsageError: there is none, or the file fails.
    """
    if ".py:" in name or name.endswith(".py"):
        return _from_file(name)
    _load(name)
    if name not in _REGISTRY:
        if elsewhere := absent(METHODS, name):
            raise UsageError(f"no method {name!r} here: {elsewhere}.")
        known = {*_REGISTRY, *extensions(METHODS)}
        raise UsageError(f"unknown method {name!r}.{nearest(name, known)} `steadyclip methods` lists them.")
    return _REGISTRY[name]


def get_method(name: str, knobs: Mapping[str, Any] | None = None) -> Method:
    """The method ``name`` with ``knobs`` (values may be strings, as typed on a command line).

    Args:
        name: as listed by `steadyclip methods`, or ``path/to/mine.py:Mine``.
        knobs: flat names, ``piece.knob`` where two pieces share one.

    Raises:
        UsageError: unknown method or knob, or a value that does not fit the knob's type.
    """
    return make_method(find_method(name), knobs)


def make_method(found: type[Method] | Method, knobs: Mapping[str, Any] | None = None) -> Method:
    """What ``get_method`` makes of a class, or of a composition, which need not be registered."""
    method = found() if isinstance(found, type) else found
    method, values = method.with_pieces(dict(knobs or {}))
    return with_knobs(method, values)


def _from_file(text: str) -> type[Method] | Method:
    """The class, or the composition, that ``path/to/mine.py:Mine`` names. Runs the file."""
    file, _, attribute = text.rpartition(":") if ".py:" in text else (text, "", "")
    path = expanded(file).resolve()
    if not path.is_file():
        raise UsageError(f"method {text!r}: there is no file {file}.")
    module_name = f"steadyclip_file_{path.stem}"
    if getattr(sys.modules.get(module_name), "__file__", "") != str(path):
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module_name])
        except Exception as error:
            del sys.modules[module_name]
            why = f"{type(error).__name__}: {error}"
            raise UsageError(f"method {text!r}: {file} cannot be imported ({why}).") from error
    found = {
        name: value
        for name, value in vars(sys.modules[module_name]).items()
        if isinstance(value, Method) or (isinstance(value, type) and issubclass(value, Method) and value is not Method)
    }
    if attribute not in found:
        has = ", ".join(found) or "none"
        raise UsageError(f"method {text!r}: write {file}:NAME, where NAME is a method in it ({has}).")
    method = found[attribute]
    return register(method, f"the file {path.name}") if isinstance(method, type) else method


def _load(name: str) -> None:
    """Register the method of an installed package, if one provides it."""
    if name in _REGISTRY or name not in extensions(METHODS):
        return
    found = load_extension(METHODS, name, type)
    if found is None:
        return
    source = distribution(extensions(METHODS)[name])
    if issubclass(found, Method) and found.name == name:
        register(found, f"the package {source}")
    else:
        what = f"is the method {found.name!r}" if issubclass(found, Method) else "is no method"
        print(f"warning: {source} is broken, and its {name!r} ({METHODS}) is left out: it {what}.", file=sys.stderr)
