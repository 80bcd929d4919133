"""`soup`: one run from the averaged weights of several."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from steadyclip.commands.options import say
from steadyclip.core.errors import UsageError
from steadyclip.core.limits import Workers
from steadyclip.core.precision import AskedPrecision, best_device


@dataclasses.dataclass(frozen=True)
class Soup:
    """Average the weights of finished runs; the result is a run like any other."""

    runs: Positional[tuple[Path, ...]]
    """Two folders or more that `steadyclip train` wrote: the same model, method and classes."""
    out: Path
    """Folder of the result."""
    how: Literal["uniform", "greedy", "stock"] = "uniform"
    """`uniform` is the mean of all; `greedy` takes in a run, from the best to the worst on validation images, if
    the mean gets better; `stock` moves the mean towards the pretrained weights, the more the less the runs agree."""
    data: str | None = None
    """The data of the runs, whose validation images decide what a greedy soup takes in."""
    root: Path | None = None
    """Folder that holds the field's data sets, as for `steadyclip train`."""
    workers: Workers = 0
    """Processes that decode validation images."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:N`, `mps`, or `auto`, which is CUDA where there is one."""
    precision: AskedPrecision = "auto"
    """Arithmetic of scoring validation images."""

    def __call__(self) -> None:
        from steadyclip.data import load_data
        from steadyclip.training.soups import soup

        if self.how == "greedy" and self.data is None:
            raise UsageError("--how greedy decides on validation images: give the data of the runs with --data.")
        if self.how != "greedy" and self.data is not None:
            raise UsageError(f"--how {self.how} looks at no images: leave --data out.")
        data = load_data(self.data, root=self.root) if self.data else None
        options = {"workers": self.workers, "precision": self.precision, "progress": True} if data else {}
        run = soup(self.runs, self.out, how=self.how, data=data, device=best_device(self.device), **options)
        choices = run.results.choices if run.results else {}
        if choices:
            for number, (path, top1) in enumerate(zip(self.runs, choices["alone"], strict=True)):
                say(f"  {top1:6.1%}  {path}{'  in the soup' if number in choices['kept'] else ''}")
            say(f"  {choices['validation']:6.1%}  the soup of {len(choices['kept'])}, on {choices['images']} images")
        say(f"{run.method.label}: {self.out}", f"next: steadyclip evaluate {self.out} --data {self.data or 'DATA'}")
