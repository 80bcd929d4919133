"""Jobs on a Slurm cluster, through submitit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadyclip.core.errors import SteadyClipError

_ARRAY = 1000
"""Jobs in an array: Slurm's own limit is 1,001 by default."""


def need_submitit() -> Any:
    """The package. Raises ``SteadyClipError`` where it is not installed."""
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SteadyClipError('slurm needs submitit: pip install "steadyclip[slurm]".') from None
    return submitit


def submit(
    calls: Sequence[tuple[Callable[..., Any], tuple[Any, ...]]],
    folder: Path,
    parameters: Mapping[str, Any] | None = None,
    cluster: str = "slurm",
) -> list[Any]:
    """A submitit job for each call; logs are in ``folder``.

    A job whose time is over is queued again, and makes the same call, which must go on with what it left.

    Args:
        calls: functions and their arguments.
        folder: seen by all nodes.
        parameters: for submitit's ``update_parameters``, such as ``timeout_min``, ``slurm_partition``,
            ``gpus_per_node``.
        cluster: "slurm", or "local" for processes on this machine.

    Raises:
        SteadyClipError: submitit is not installed, there is no Slurm here, or it refuses a parameter.
    """
    submitit = need_submitit()

    class Call(submitit.helpers.Checkpointable):
        """Plain functions are not queued again."""

        def __init__(self, function: Callable[..., Any]) -> None:
            self.function = function

        def __call__(self, *arguments: Any) -> Any:
            return self.function(*arguments)

    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"name": "steadyclip", "timeout_min": 240, **(parameters or {})})
        jobs: list[Any] = []
        for first in range(0, len(calls), _ARRAY):
            with executor.batch():
                jobs += [executor.submit(Call(function), *given) for function, given in calls[first : first + _ARRAY]]
        return jobs
    except Exception as error:  # submitit raises plain RuntimeErrors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SteadyClipError(f"submitit cannot start the jobs ({first}): see its logs in {folder}.") from error
