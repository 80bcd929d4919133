"""Jobs on a Slurm cluster, through submitit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from steadyclip.core.errors import SteadyClipError


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
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"name": "steadyclip", "timeout_min": 240, **(parameters or {})})
        with executor.batch():
            return [executor.submit(function, *arguments) for function, arguments in calls]
    except Exception as error:  # submitit raises plain RuntimeErrors
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise SteadyClipError(f"submitit cannot start the jobs ({first}): see its logs in {folder}.") from error
