"""Where tasks run. Each engine is a module; none is imported before it is asked for.

| `--on` | engine | needs |
|---|---|---|
| `local:4` | four processes on this machine | nothing |
| `ray`, `ray://HOST:PORT` | Ray Core tasks | the extra `ray` |
| `slurm`, `slurm:32` | Slurm jobs through submitit, at most 32 at a time | the extra `slurm` |

An engine starts tasks and says which ended; it decides nothing. Retries, order and bounds are the
driver's (`drive.py`), so that they are the same everywhere.

`mfgjax/engines` is a link to this folder, so that `mfgjax lab run --on` and `mfgjax-extract --on` run the
same code, and neither package needs the other: import relatively here, and neither jax nor torch.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from .needs import Needs

DISTRIBUTION = __name__.split(".")[0].replace("_", "-")
"""Who asks: this room is one of two packages, which share no other code."""


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


_LOCAL, _SLURM = re.compile(r"local:([1-9]\d*)"), re.compile(r"slurm(?::([1-9]\d*))?")
_RAY = re.compile(r"ray|ray://.+:\d+")


def check_on(on: str) -> None:
    """Raise `ValueError` where `--on` names no engine; for who makes it later."""
    if not any(pattern.fullmatch(on) for pattern in (_LOCAL, _SLURM, _RAY)):
        raise ValueError(
            f"--on {on}: expected local:N with N from 1 (processes here), ray, ray://HOST:PORT, slurm, "
            "or slurm:N (N jobs at a time)"
        )


def engine_for(on: str, needs: Needs, notes: Path) -> Engine:
    """The engine that `--on` names.

    Args:
        on: its value.
        needs: of one task.
        notes: folder of notes below the outputs; scripts of Slurm's jobs and what they print go there.

    Raises:
        ValueError: no such engine, or more than this machine has.
        ImportError: the engine's package is not installed.
        RuntimeError: no Ray or Slurm that can be reached.
    """
    check_on(on)
    if match := _LOCAL.fullmatch(on):
        from .processes import Processes

        return Processes(int(match[1]), needs)
    if match := _SLURM.fullmatch(on):
        with _installed("submitit", extra="slurm"):
            from .slurm import SlurmJobs
        return SlurmJobs(notes / "slurm", needs, int(match[1] or 0))
    with _installed("ray"):
        from .ray_tasks import RayTasks
    return RayTasks(None if on == "ray" else on, needs)


@contextmanager
def _installed(package: str, extra: str = "") -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package:
            raise
        extra = extra or package
        raise ImportError(
            f"--on {extra} needs {package}, which is not here: pip install '{DISTRIBUTION}[{extra}]'"
        ) from None
