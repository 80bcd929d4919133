"""Compiled trainings: the same losses, whole graphs, and a line where there is no compiler.

What really compiles runs in processes of its own: the checks of shapes that tests put around the library are nothing a
compiler can look into.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import steadyclip
from steadyclip.core.progress import warn
from steadyclip.methods import get_method
from steadyclip.models.compiling import compiled
from steadyclip.models.testing import tiny
from steadyclip.training import FitResult, TrainConfig, fit

sys.path.insert(0, str(Path(__file__).parent))  # the process of its own finds the world by its name
from training_world import RECIPE, make_task

METHODS = ("lora", "dra", "orthcr", "maple", "full")
ALL = (*METHODS, "mma", "cocoop", "bottleneck")


def trained(name: str, compile: str) -> FitResult:
    """By default in a few steps, each of which is logged."""
    config = TrainConfig(progress=False, device="cpu", log_every=1, compile=compile)  # pyright: ignore
    return fit(tiny("clip"), get_method(name), make_task(), recipe=RECIPE, config=config)


def in_a_process(*words: str, **environment: str) -> tuple[list[str], str]:
    """Lines that this file prints, run as a program, and what it says on standard error."""
    path = os.pathsep.join(str(Path(module).parents[1]) for module in (steadyclip.__file__,))
    result = subprocess.run(
        [sys.executable, __file__, *words], env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout.splitlines(), result.stderr


@pytest.mark.slow
@pytest.mark.newest
@pytest.mark.parametrize("name", METHODS)
def test_losses_are_those_without_a_compiler(name: str) -> None:
    (line,), said = in_a_process("losses", name)
    eager, graphs, flags = json.loads(line)
    assert flags["compiled"] is True, said
    assert graphs == pytest.approx(eager, rel=1e-5)


@pytest.mark.slow
@pytest.mark.newest
def test_no_adapter_breaks_a_graph() -> None:
    lines, _ = in_a_process("breaks")
    assert lines == [
        f"{name} {tower} 0" for name in (*METHODS, "mma", "cocoop", "bottleneck") for tower in ("image", "text")
    ]


@pytest.mark.slow
@pytest.mark.newest
def test_without_a_compiler_a_line_says_so_and_nothing_changes(tmp_path: Path) -> None:
    (line,), said = in_a_process("losses", "lora", CXX="no-such-compiler", TORCHINDUCTOR_CACHE_DIR=str(tmp_path))
    eager, found, flags = json.loads(line)
    assert found == eager
    assert said.count("warning: the model is not compiled, so steps are slower: ") == 1
    assert "no-such-compiler" in flags["compiled"] or "compiler" in flags["compiled"].lower()


def test_a_processor_compiles_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda _: pytest.fail("compiled"))
    for asked in ("auto", "off"):
        assert "compiled" not in trained("lora", asked).run.results.flags


@pytest.mark.parametrize("when", ["forward", "backward"])
def test_a_compiler_that_fails_is_left_out(when: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from torch._dynamo.exc import TorchDynamoException

    class Broken(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            raise TorchDynamoException("no compiler is there\nand more")

    def fail(*_):
        raise TorchDynamoException("no compiler is there\nand more")

    def broken(forward):
        return fail if when == "forward" else lambda *args: {k: Broken.apply(v) for k, v in forward(*args).items()}

    eager = trained("lora", "off")
    warn.cache_clear()
    capsys.readouterr()
    monkeypatch.setattr(torch, "compile", broken)
    found = trained("lora", "on")
    assert found.losses == eager.losses
    assert found.run.results.flags["compiled"] == "no compiler is there"
    said = "warning: the model is not compiled, so steps are slower: no compiler is there.\n"
    assert capsys.readouterr().err == said


def test_the_model_is_as_before_also_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    model = tiny("clip")
    with compiled(model, "on"):
        assert model.compiled is not None
    assert model.compiled is None
    with pytest.raises(KeyError), compiled(model, "on"):
        raise KeyError
    assert model.compiled is None


def print_breaks() -> None:
    for name in ALL:
        model, method = tiny("clip"), get_method(name)
        method.attach(model, ["a", "b"])
        tokens = model.tokenize(["a cat", "a sea lion"], slots=True)
        for adapter in model.adapters.values():
            if getattr(adapter, "conditional", False):
                adapter.given = torch.randn(2, model.embed_dim)
        for tower, inputs in (("image", torch.randn(2, 3, 32, 32)), ("text", tokens)):
            torch._dynamo.reset()
            found = torch._dynamo.explain(model.forward)(tower, inputs)
            print(name, tower, found.graph_break_count)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "breaks":
        print_breaks()
    else:
        results = [trained(sys.argv[2], asked) for asked in ("off", "on")]
        print(json.dumps([*(result.losses for result in results), results[1].run.results.flags]))
