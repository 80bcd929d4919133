"""The flags of a command as data: which there are, which are common, values from a file, and what a typo means.

A command is a dataclass whose fields are its flags; fields that are dataclasses themselves add theirs. It may name its
``common`` flags, which are all that `--help` shows, and give ``examples``.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes, Suppress

from steadyclip.core.errors import UsageError, nearest

CONFIG, PRINT, ALL, OFFLINE = "--config", "--print-config", "--help-all", "--offline"
"""Flags of every command."""

Command = type[Any]

_MEANT = {
    "lr": "learning_rate", "wd": "weight_decay", "decay": "weight_decay", "bs": "batch_size", "bsz": "batch_size",
    "batch": "batch_size", "epoch": "epochs", "num_epochs": "epochs", "n_epochs": "epochs", "max_steps": "steps",
    "num_steps": "steps", "iters": "steps", "iterations": "steps", "n_iters": "steps", "warmup": "warmup_steps",
    "lora_rank": "rank", "r": "rank", "lora_alpha": "alpha", "grad_accum": "accumulate", "optim": "optimizer",
    "gradient_accumulation_steps": "accumulate", "max_grad_norm": "clip_norm", "augmentation": "augment",
}  # fmt: skip
"""What the keys of a row are called elsewhere."""
_ELSEWHERE = {
    "output": "out", "output_dir": "out", "save_dir": "out", "project": "out", "dataset": "data", "data_dir": "data",
    "source": "data", "train_dir": "data", "input": "data", "backbone": "model", "model_name": "model", "arch": "model",
    "weights": "model", "pretrained": "model", "num_workers": "workers", "n_workers": "workers", "gpu": "device",
    "cuda": "device", "fp16": "precision", "bf16": "precision", "amp": "precision", "mixed_precision": "precision",
    "k": "shots", "num_shots": "shots", "n_shot": "shots", "few_shot": "shots", "topk": "top", "top_k": "top",
    "classes": "names", "prompt": "templates", "prompts": "templates", "template": "templates", "trainer": "method",
}  # fmt: skip
"""What flags are called elsewhere."""
_PLACES = {"model": "source", "run": "source", "checkpoint": "source", "data": "images"}
"""Flags -> what stands without a flag where they are not."""


class Flag(NamedTuple):
    """One flag: its type, its default (``dataclasses.MISSING`` if it must be given), and whether it has no dashes."""

    kind: Any
    default: Any
    positional: bool = False


def nested(kind: Any) -> Command | None:
    """The dataclass of a field that adds flags of its own."""
    inner = get_args(kind)[0] if get_origin(kind) is typing.Annotated else kind
    return inner if dataclasses.is_dataclass(inner) and isinstance(inner, type) else None


def flags_of(command: Command) -> dict[str, Flag]:
    """Every flag by name, with underscores."""
    found: dict[str, Flag] = {}
    hints = get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):
        if inner := nested(hints[field.name]):
            found |= flags_of(inner)
        else:
            marked = "Positional" in repr(hints[field.name])
            found[field.name] = Flag(hints[field.name], field.default, marked)
    return found


def shortened(command: Command) -> Command:
    """The command with only its common flags in the help; itself if it names none."""
    common = getattr(command, "common", None)
    return command if common is None else _hidden(command, frozenset(common))


def _hidden(command: Command, common: frozenset[str]) -> Command:
    hints = get_type_hints(command, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(command):
        kind = hints[field.name]
        default = dataclasses.field(default=field.default)
        if inner := nested(kind):
            fields.append((field.name, OmitArgPrefixes[_hidden(inner, common)]))
        elif field.default is not dataclasses.MISSING and field.name not in common:
            fields.append((field.name, Suppress[kind], default))
    namespace = {"__doc__": command.__doc__, "__module__": command.__module__}
    return dataclasses.make_dataclass(command.__name__, fields, bases=(command,), frozen=True, namespace=namespace)


def footer(name: str, command: Command, short: bool) -> Iterator[str]:
    """What stands below the help of the command ``name``."""
    if examples := getattr(command, "examples", ()):
        yield "examples:"
        yield from (f"  {line}" for line in examples)
        yield ""
    if short and (common := getattr(command, "common", None)) is not None:
        hidden = [flag for flag in flags_of(command) if flag not in common and not flags_of(command)[flag].positional]
        yield f"{len(hidden)} more options: steadyclip {name} {ALL}"
    yield f"{CONFIG} FILE takes options from a file, {PRINT} prints them all, {OFFLINE} refuses connections."


# ---- values from a file


def take(words: Sequence[str], flag: str) -> tuple[list[str], str | None]:
    """The words without ``flag`` and its value, and the value; None if it is not there.

    Raises:
        UsageError: the value is missing.
    """
    rest, value, given = [], None, iter(words)
    for word in given:
        if word == flag:
            value = next(given, None)
            if value is None:
                raise UsageError(f"{flag} needs a file.")
        elif word.startswith(f"{flag}="):
            value = word.partition("=")[2]
        else:
            rest.append(word)
    return rest, value


def defaults_from(command: Command, values: Mapping[str, Any], place: str) -> Any:
    """An instance of the command with ``values``; what must be given and is not is ``tyro.MISSING``.

    Raises:
        UsageError: an unknown name, or a value of the wrong type; ``place`` is the file.
    """
    known = flags_of(command)
    values = {str(name).lstrip("-").replace("-", "_"): value for name, value in values.items()}
    for name in values:
        if name not in known:
            raise UsageError(f"{place}: there is no option {name!r} here.{nearest(name, known)}")
    return _filled(command, values, place)


def _filled(command: Command, values: Mapping[str, Any], place: str) -> Any:
    hints = get_type_hints(command, include_extras=True)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(command):
        if inner := nested(hints[field.name]):
            given[field.name] = _filled(inner, values, place)
        elif field.name in values:
            given[field.name] = _converted(field.name, values[field.name], hints[field.name], place)
        elif field.default is dataclasses.MISSING:
            given[field.name] = tyro.MISSING
        else:
            given[field.name] = field.default
    return command(**given)


def _converted(name: str, value: Any, kind: Any, place: str) -> Any:
    import msgspec

    kind = get_type_hints(type("_", (), {"__annotations__": {"it": kind}}))["it"]  # less what tyro reads
    if get_origin(kind) is tuple and not isinstance(value, list):
        value = [value]

    def path(wanted: type, value: Any) -> Any:
        if wanted is not Path or not isinstance(value, str):
            raise ValueError(f"expected a path, got {value!r}")
        return Path(value)

    try:
        return msgspec.convert(value, kind, strict=False, dec_hook=path)
    except msgspec.ValidationError as error:
        raise UsageError(f"{place}: {name}: {str(error)[0].lower()}{str(error)[1:]}.") from None


def read_config(file: str) -> dict[str, Any]:
    """The options in a YAML or TOML file.

    Raises:
        UsageError: it cannot be read, or holds something else.
    """
    from steadyclip.core.files import expanded

    try:
        text = expanded(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{CONFIG} {file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    try:
        if file.lower().endswith(".toml"):
            import tomllib  # pyright: ignore[reportMissingImports]  # from Python 3.11 on

            found = tomllib.loads(text)
        else:
            import yaml

            found = yaml.safe_load(text)
    except ImportError:
        raise UsageError(f"{CONFIG} {file}: TOML needs Python 3.11 or newer, write YAML instead.") from None
    except Exception as error:  # either parser's own
        raise UsageError(f"{CONFIG} {file}: {' '.join(str(error).split())}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UsageError(f"{CONFIG} {file} must hold option: value pairs, not {type(found).__name__}.")
    return found


_OURS = "# steadyclip "
"""How each file of ours begins."""


def config_text(name: str, command: Any) -> str:
    """All options of a command with their values as YAML, less those that are None and would be anyway."""
    import yaml

    values = {name: _plain(value) for name, value in _values(command)}
    head = f"{_OURS}{name} --config FILE does this again; flags of the command line win.\n"
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _values(command: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(command):
        value = getattr(command, field.name)
        if dataclasses.is_dataclass(value):
            yield from _values(value)
        elif value is not None or field.default is not None:
            yield field.name, value


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return value.as_posix() if isinstance(value, Path) else value


def keep_config(name: str, command: Any, folder: Path) -> None:
    """Write ``config.yaml``, from which the command can be given again.

    Raises:
        UsageError: the folder has such a file of another program.
    """
    from steadyclip.core.files import write_atomic

    file = folder / "config.yaml"
    if file.is_file() and not file.read_bytes().startswith(_OURS.encode()):
        raise UsageError(f"{file} is not of steadyclip, and would be overwritten: name another folder.")
    write_atomic(file, config_text(name, command).encode())


# ---- typos


def hint(words: Sequence[str], command: Command) -> str:
    """What was meant by flags that the command does not have; "" where nobody knows."""
    known = flags_of(command)
    bare = [name for name, flag in known.items() if flag.positional]
    given = [(word.partition("=")[0], word, after) for word, after in itertools.pairwise([*words, "..."])]
    wrong = [each for each in given if each[0].startswith("--") and _name(each[0]) not in known.keys() - {*bare}]
    option = next((f"--{name}" for name in ("method", "methods") if name in known), None)
    if option and (row := _row_hint(words, option, wrong)):
        return row
    for flag, word, after in wrong:
        meant = _ELSEWHERE.get(_name(flag), _name(flag))
        for place in {meant, _PLACES.get(meant)}.intersection(bare):
            first = ", before all else" if place == bare[0] else ""
            return f"there is no {flag} here: write {word.partition('=')[2] or after} without it{first}."
        if meant in known:
            value = {"precision": " bf16", "device": " cuda"}.get(meant, "")
            value = "" if "=" in word or not after.startswith(("-", "...")) else value
            return f"there is no {flag} here. Did you mean --{meant}{value}?".replace("__", "-")
    return ""


def _name(flag: str) -> str:
    return flag.removeprefix("--").removeprefix("no-").replace("-", "_")


def _row_hint(words: Sequence[str], option: str, wrong: Sequence[tuple[str, str, str]]) -> str:
    """What to write where settings of a method were given as flags."""
    if not wrong:
        return ""
    from steadyclip.experiments.rows import RECIPE, TRAINING
    from steadyclip.methods import get_method, methods
    from steadyclip.methods.knobs import knobs_of

    method, _, more = dict(itertools.pairwise(words)).get(option, "lora").partition("[")
    try:
        own = _short(knobs_of(get_method(method)))
    except UsageError:
        own = set()
    flags: list[str] = []
    changes: list[str] = []
    for flag, word, after in wrong:
        key = _MEANT.get(_name(flag), _name(flag))
        value = "off" if flag.startswith("--no-") else word.partition("=")[2] or after
        if key in {*RECIPE, *TRAINING, *own}:
            changes.append(f"{key}={value}")
        elif key == "knobs":
            changes.append(value)
        elif others := sorted(
            (name for name, cls in methods().items() if key in _short(knobs_of(cls()))), key=lambda name: name != "lora"
        ):
            return (
                f"{flag} is a knob of {', '.join(others[:4])}{' and others' if len(others) > 4 else ''}, not of "
                f'{method}: write {option} "{others[0]}[{key}={value}]", for instance.'
            )
        else:
            continue
        flags.append(flag)
    row = f"{method}[{','.join([*filter(None, [more.removesuffix(']')]), *changes])}]"
    return f'write {option} "{row}" instead of {", ".join(flags)}: see docs/rows.md.' if flags else ""


def _short(knobs: Mapping[str, Any]) -> set[str]:
    return {*knobs, *(knob.rpartition(".")[2] for knob in knobs)}
