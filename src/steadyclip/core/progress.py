"""How far a long loop is: a bar on a terminal, one line at the end where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from steadyclip.evaluation.features import Progress


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yields a callback ``(done, total)``; everything goes to standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        start, counts = time.perf_counter(), [0]
        yield lambda done, total: counts.append(done)
        print(f"{title}: {counts[-1]} images in {time.perf_counter() - start:.1f} s", file=sys.stderr)
