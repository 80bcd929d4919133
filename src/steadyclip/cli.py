"""The command line: finds the command, runs it, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_type_hints

import tyro
from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand

from steadyclip import __version__
from steadyclip.commands import flags
from steadyclip.commands.anchors import Anchors
from steadyclip.commands.bench import Bench, Demo
from steadyclip.commands.data import Data
from steadyclip.commands.deploy import Export, Serve
from steadyclip.commands.evaluate import Evaluate
from steadyclip.commands.folders import Runs
from steadyclip.commands.predict import Calibrate, Predict
from steadyclip.commands.report import Report
from steadyclip.commands.runs import Methods, Train
from steadyclip.commands.search import Embed, Search
from steadyclip.commands.soup import Soup
from steadyclip.commands.tune import Tune
from steadyclip.core.errors import SteadyClipError, UsageError, nearest
from steadyclip.core.extensions import COMMANDS as GROUP
from steadyclip.core.extensions import absent, extensions, load_extension
from steadyclip.core.limits import check_limits
from steadyclip.core.precision import best_device, keep_freed_memory
from steadyclip.core.terminal import one_line, screens


@dataclasses.dataclass(frozen=True)
class Completion:
    """Print a script for your shell, with which the Tab key completes commands and options."""

    examples: ClassVar = (
        "steadyclip completion bash > ~/.local/share/bash-completion/completions/steadyclip",
        'steadyclip completion zsh > "${fpath[1]}/_steadyclip"',
    )

    shell: Positional[Literal["bash", "zsh"]]
    """Which; open a new one afterwards."""

    def __call__(self) -> None:
        there = [name for name in _names() if name in COMMANDS or load_extension(GROUP, name, type)]
        every: Any = Union[(*(Annotated[find_command(name), subcommand(name)] for name in there),)]
        with contextlib.suppress(SystemExit):
            tyro.cli(every, prog="steadyclip", args=["--tyro-print-completion", self.shell])


COMMANDS = {
    "demo": Demo, "tune": Tune, "train": Train, "evaluate": Evaluate, "predict": Predict, "calibrate": Calibrate,
    "export": Export, "serve": Serve, "embed": Embed, "search": Search, "report": Report, "runs": Runs, "soup": Soup,
    "methods": Methods, "data": Data, "anchors": Anchors, "bench": Bench,
    "completion": Completion,
}  # fmt: skip

_MEANT = {
    "val": "evaluate", "eval": "evaluate", "test": "evaluate", "score": "evaluate", "fit": "train",
    "finetune": "tune", "fine-tune": "tune", "classify": "predict", "infer": "predict", "inference": "predict",
    "benchmark": "bench", "datasets": "data list", "models": "methods", "compare": "runs compare", "ls": "runs list",
    "list": "runs list", "show": "runs show", "leaderboard": "runs list",
}  # fmt: skip
"""What commands are called elsewhere."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with screens():
            return _run(words)
    except SteadyClipError as error:  # standard output cannot be written
        _tell(error)
        return error.exit_code
    except BrokenPipeError:  # the reader went away, as in `| head`
        return 1


def _run(words: Sequence[str]) -> int:
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            overview()
        elif words[0] in ("-V", "--version"):
            print(f"steadyclip {__version__}")
        else:
            keep_freed_memory()
            command = parse(words)
            check_options(command)
            command()
    except SteadyClipError as error:
        _tell(error)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except OSError as error:  # a disk that is full, a folder that has gone: of the machine, not of the program
        file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        _tell(f"{file}{error.strerror or error}.")
        return 1
    except MemoryError:
        _tell("memory does not suffice: choose a smaller batch, a smaller model, or a larger machine.")
        return 1
    return 0


def _tell(error: object) -> None:
    """One line on standard error, which may be closed."""
    with contextlib.suppress(OSError, AttributeError):
        print(f"error: {one_line(str(error))}", file=sys.stderr)


def parse(words: Sequence[str]) -> Callable[[], None]:
    """The command of ``words`` with its options.

    Raises:
        UsageError: an unknown command or flag, or a value that does not fit.
    """
    name, command, rest = _leaf(words)
    short = bool({"-h", "--help"} & {*rest}) and flags.ALL not in rest
    if short or flags.ALL in rest:
        _help(name, flags.shortened(command) if short else command, command, short)
        sys.exit(0)
    rest, file = flags.take(rest, flags.CONFIG)
    printed = flags.PRINT in rest
    if flags.OFFLINE in rest:
        from steadyclip.core.network import go_offline

        go_offline()
    rest = [word for word in rest if word not in (flags.PRINT, flags.OFFLINE)]
    values = flags.defaults_from(command, flags.read_config(file), file) if file else None
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            defaults = {} if values is None else {"default": values}
            found = tyro.cli(command, args=rest, prog=f"steadyclip {name}", **defaults)
    except SystemExit:
        action = ".".join(words[:2])
        elsewhere = None if load_extension(GROUP, action, type) else absent(GROUP, action)
        if elsewhere:
            raise UsageError(f"no command {' '.join(words[:2])!r} here: {elsewhere}.") from None
        wrong = flags.hint(rest, command) or f"{_one_line(shown.getvalue())} See steadyclip {name} --help."
        raise UsageError(wrong) from None
    if printed:
        print(flags.config_text(name, found), end="")
        sys.exit(0)
    return found


def _leaf(words: Sequence[str]) -> tuple[str, type, list[str]]:
    """The name of the command, its dataclass, and the other words; of a command with actions that of the action."""
    command = find_command(words[0])
    hints = get_type_hints(command, include_extras=True)
    if "action" in hints and len(words) > 1:
        every, *_ = get_args(hints["action"])
        for each in get_args(every):
            cls, *about = get_args(each)
            if any(getattr(mark, "name", None) == words[1] for mark in about):
                return f"{words[0]} {words[1]}", cls, list(words[2:])
    return words[0], command, list(words[1:])


def _help(name: str, shown: type, command: type, short: bool) -> None:
    plain = getattr(sys.stdout, "plain", sys.stdout)  # tyro's help has colors
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(plain):
        tyro.cli(shown, args=["--help"], prog=f"steadyclip {name}")
    for line in flags.footer(name, command, short):
        print(line)


def check_options(options: Any) -> None:
    """Raises UsageError where a ``--device`` is not there, or a number beyond its limits: before anything is read."""
    if not dataclasses.is_dataclass(options):
        return
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name == "device" and value != "auto":
            best_device(value)
        check_options(value)
    check_limits(options, "--{}")


def find_command(name: str) -> type:
    """The dataclass of a command, of the core or of another installed distribution.

    An entry point ``data.build`` adds the action ``build`` to the core's command ``data``.

    Raises:
        UsageError: there is no such command.
    """
    command = COMMANDS.get(name) or load_extension(GROUP, name, type)
    if command is None:
        if elsewhere := absent(GROUP, name):
            raise UsageError(f"no command {name!r} here: {elsewhere}.")
        known = _names()
        meant = f" Did you mean {_MEANT[name]!r}?" if name in _MEANT else nearest(name, known)
        raise UsageError(f"unknown command {name!r}.{meant} Commands: {', '.join(known)}.")
    more = {point: load_extension(GROUP, point, type) for point in extensions(GROUP) if point.startswith(f"{name}.")}
    added = [Annotated[cls, subcommand(point.partition(".")[2])] for point, cls in more.items() if cls]
    if not added:
        return command
    actions, *_ = get_args(get_type_hints(command, include_extras=True)["action"])
    every: Any = Union[(*get_args(actions), *added)]
    fields: list[tuple[str, Any]] = [("action", OmitSubcommandPrefixes[every])]
    return dataclasses.make_dataclass(
        command.__name__, fields, bases=(command,), frozen=True, namespace={"__doc__": command.__doc__}
    )


def _names() -> tuple[str, ...]:
    """The commands of the core and of other installed distributions."""
    return (*COMMANDS, *(point for point in extensions(GROUP) if "." not in point))


def _one_line(box: str) -> str:
    """What tyro's box says is wrong, and the names that it proposes, without the help texts below them."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip(" │╰╯") for line in box.splitlines()[1:]]  # less the title
    parts = [part.strip("\n") for part in re.split(r"(?:^|\n)[─-]{5,}", "\n".join(lines))]
    wrong, *others = [part for part in parts if part] or ["the options cannot be read"]
    said = " ".join(wrong.split("\n\n")[0].split()).removeprefix("Error parsing ")
    for part in others:
        head, _, below = part.partition("\n")
        if "meant" in head and below:
            said += f". Did you mean {re.split('[ ,]', below)[0]}?"
        elif "subcommands" in head:
            said += f". {head}"
    said = re.sub(
        r"no type matching (\{None\}\|)?([^{}\s]+) could be instantiated from \['(.*)'\]", r"must be \2, not '\3'", said
    )
    several = r"(?:no type matching .+ could be instantiated from|Could not find valid parse for arguments:) \[(.+)\]"
    said = re.sub(several, r"cannot be \1", said)
    return said if said.endswith((".", "?")) else f"{said}."


def overview() -> None:
    """What there is, without building any parser."""
    print("usage: steadyclip COMMAND [OPTIONS]\n\nFine-tune CLIP-like models without losing what they know.\n")
    more = {name: load_extension(GROUP, name, type) for name in extensions(GROUP) if "." not in name}
    for name, command in (COMMANDS | {name: cls for name, cls in more.items() if cls}).items():
        print(f"  {name:<11}{(command.__doc__ or '').splitlines()[0]}")
    print("\nsteadyclip COMMAND --help lists a command's options; steadyclip demo shows the main job in minutes.")


if __name__ == "__main__":
    sys.exit(main())
