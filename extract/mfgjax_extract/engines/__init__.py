"""Where the tasks of a sweep run. Each engine is a module; none is imported before it is asked for.

| `--on` | engine | needs |
|---|---|---|
| `local:4` | four processes on this machine | nothing |
| `ray`, `ray://HOST:PORT` | Ray Core tasks | the extra `ray` |
| `slurm`, `slurm:32` | Slurm jobs through submitit, at most 32 at a time | the extra `slurm` |

An engine starts tasks and says which ended; it decides nothing. Retries, order and bounds are the
driver's (`spread.py`), so that they are the same everywhere.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mfgjax_extract.engines.per_checkpoint import PerCheckpoint


class WorkerLost(RuntimeError):
    """The process or node that ran a task is gone, and with it what the task would have returned."""


class Engine(Protocol):
    """Runs functions of one argument elsewhere; both must survive pickling.

    Attributes:
        at_once: most tasks to have submitted and not yet collected.
    """

    at_once: int

    def on_every_node(self, function: Callable[[Any], Any], argument: Any) -> list[Any]:
        """Results of `function(argument)`, once from each node known now; none if none is known."""
        ...

    def submit(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        """Start tasks; one hashable handle for each."""
        ...

    def ended(self, handles: Iterable[Any]) -> list[Any]:
        """Those of `handles` that ended, one at least; waits until there is one."""
        ...

    def result(self, handle: Any) -> Any:
        """What the ended task returned. Raises `WorkerLost`."""
        ...

    def close(self) -> None:
        """Stop what still runs."""
        ...


def engine_for(on: str, per: PerCheckpoint, out: Path) -> Engine:
    """The engine that `--on` names.

    Raises:
        ValueError: no such engine, or more than this machine has.
        ImportError: the engine's package is not installed.
    """
    if match := re.fullmatch(r"local:([1-9]\d*)", on):
        from mfgjax_extract.engines.processes import Processes

        return Processes(int(match[1]), per)
    if on == "ray" or on.startswith("ray://"):
        try:
            from mfgjax_extract.engines.ray_tasks import RayTasks
        except ModuleNotFoundError:
            raise ImportError(_missing("ray", "ray")) from None
        return RayTasks(None if on == "ray" else on, per)
    if match := re.fullmatch(r"slurm(?::([1-9]\d*))?", on):
        try:
            from mfgjax_extract.engines.slurm import SlurmJobs
        except ModuleNotFoundError:
            raise ImportError(_missing("slurm", "submitit")) from None
        return SlurmJobs(out, per, int(match[1] or 0))
    raise ValueError(f"--on {on}: expected local:N, ray, ray://HOST:PORT, slurm or slurm:N")


def _missing(extra: str, package: str) -> str:
    return f"--on {extra} needs {package}: pip install 'mfgjax-extract[{extra}]' ({package} is not here)"
