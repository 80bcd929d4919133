"""One pass of a tower with adapters on it compiles as a whole, with the same gradients.

In a process of its own: the checks of shapes that tests put around the library are nothing a compiler can look into.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import steadyclip
from steadyclip.adapters import AdapterSpec, Orthogonal, Prompts, TokenRank
from steadyclip.models.testing import installed_families, tiny

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TEXTS = ["a cat", "a sea lion"]
KINDS: dict[str, tuple[AdapterSpec, str]] = {
    "prompts": (Prompts("both", length=2, depth=2), "feature"),
    "token_rank": (TokenRank(), "delta"),
    "orthogonal": (Orthogonal(), "feature"),
}


# torch 2.6 cannot trace a wrapper that transformers 5.6 puts around its towers, nor the itertools of two adapters
@pytest.mark.newest
def test_a_pass_is_one_graph_with_the_same_gradients() -> None:
    path = str(Path(steadyclip.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, __file__], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
    # It takes seconds each, so the other families, of which SigLIP 2 is SigLIP's network, with one kind only.
    others = [f"prompts {family}" for family in installed_families() if family in ("siglip", "open_clip")]
    assert result.stdout.splitlines() == [*(f"{kind} clip" for kind in KINDS), *others]


def compare(kind: str, family: str) -> None:
    torch._dynamo.reset()
    model, (spec, wanted) = tiny(family), KINDS[kind]
    spec.attach(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)  # fullgraph: a break is an error
    for tower, inputs in (("image", PIXELS), ("text", model.tokenize(TEXTS, slots=True))):
        found = []
        for call in (model, compiled):
            for adapter in model.adapters.values():
                adapter.wanted = frozenset([wanted])
            model.zero_grad()
            sum(x.square().sum() for x in call(tower, inputs).values()).backward()
            found.append([p.grad.clone() for p in model.adapters.parameters() if p.grad is not None])
        assert found[0]
        for eager, graph in zip(*found, strict=True):
            torch.testing.assert_close(graph, eager, atol=1e-5, rtol=1e-4)
    print(kind, family)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for each in KINDS:
        compare(each, "clip")
    for name in installed_families():
        if name in ("siglip", "open_clip"):
            compare("prompts", name)
