"""Slurm jobs through submitit. Partition and account come from `SBATCH_PARTITION`, `SBATCH_ACCOUNT`.

Which nodes will run the jobs is not known before they do: each task checks the folder itself.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, UncompletedJobError
from submitit.helpers import Checkpointable

from . import DISTRIBUTION, WorkerLost
from .needs import Needs


class SlurmJobs:
    """The engine `slurm:N`: arrays of jobs, N of them at a time (256 if not said).

    Args:
        folder: for scripts, and what jobs print.
        needs: resources of one job.
        parallel: most jobs of one array at a time; 0 for submitit's own bound.
        cluster: "local" runs the jobs on this machine, without Slurm.
        poll_s: seconds between two looks.
    """

    at_once = 1000  # Slurm's default for the size of an array is 1001

    def __init__(
        self,
        folder: Path,
        needs: Needs,
        parallel: int = 0,
        cluster: str = "slurm",
        poll_s: float = 5.0,
    ):
        if cluster == "slurm" and shutil.which("sbatch") is None:
            raise RuntimeError(
                "--on slurm: there is no sbatch here. Start it where Slurm takes jobs, on a login node; "
                "local:N needs no Slurm"
            )
        self._executor = submitit.AutoExecutor(folder, cluster=cluster)
        self._executor.update_parameters(
            name=DISTRIBUTION,
            cpus_per_task=needs.cpu or 1,
            gpus_per_node=needs.gpu,
            timeout_min=60 * needs.hours,
            slurm_array_parallelism=parallel or 256,
            **({} if needs.memory is None else {"mem_gb": math.ceil(needs.memory / 1e9)}),
        )
        self._poll_s = poll_s
        self._running: set[submitit.Job] = set()

    def on_every_node(self, function: Callable[[Any], Any], argument: Any) -> list[Any]:
        return []

    def submit(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        jobs = self._executor.map_array(_Requeued(function), list(arguments))
        self._running.update(jobs)
        return jobs

    def ended(self, handles: Iterable[Any]) -> list[Any]:
        handles = list(handles)
        while not (done := [job for job in handles if job.done()]):
            time.sleep(self._poll_s)
        return done

    def result(self, handle: Any) -> Any:
        self._running.discard(handle)
        try:
            return handle.result()
        except FailedJobError as error:
            raise RuntimeError(f"job {handle.job_id} cannot run the task: {error}") from None
        except UncompletedJobError:
            raise WorkerLost(f"job {handle.job_id} ended as {handle.state}") from None

    def close(self) -> None:
        for job in self._running:
            job.cancel()


class _Requeued(Checkpointable):
    """The task, which submitit puts into the queue again when Slurm preempts it."""

    def __init__(self, function: Callable[[Any], Any]):
        self.function = function

    def __call__(self, argument: Any) -> Any:
        return self.function(argument)
