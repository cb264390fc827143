"""Ray Core tasks: no actors, because checkpoints share no state, and no data sets.

The nodes need this package installed; nothing is shipped to them.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
from ray.exceptions import NodeDiedError, RayError, RayTaskError, TaskUnschedulableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from . import WorkerLost
from .needs import Needs

ANSWER_S = 300
"""A node that does not answer the check of the folder within this time is named."""


class RayTasks:
    """The engines `ray` (a cluster that runs here, `RAY_ADDRESS`, else a new one) and `ray://`."""

    at_once = 256  # pending tasks bring nodes where the cluster scales; more bring no more

    def __init__(self, address: str | None, needs: Needs):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._own = not ray.is_initialized()
        if self._own:
            _connect(address)
        self._needs = {"CPU": needs.cpu or 1, "GPU": needs.gpu, "memory": needs.memory or 0}
        # Deaths are retried by the driver, which counts and tells them.
        self._options = {
            "num_cpus": needs.cpu or 1,
            "num_gpus": needs.gpu,
            "memory": needs.memory,
            "max_retries": 0,
        }

    def on_every_node(self, function: Callable[[Any], Any], argument: Any) -> list[Any]:
        def fits(node: dict) -> bool:
            has = node["Resources"]
            return node["Alive"] and all(has.get(n, 0) >= need for n, need in self._needs.items())

        nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if fits(node)}
        task = ray.remote(function)
        answers = {
            task.options(
                num_cpus=0,
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
            ).remote(argument): address
            for node, address in nodes.items()
        }
        if not answers:
            return []
        done, silent = ray.wait(list(answers), num_returns=len(answers), timeout=ANSWER_S)
        if silent:
            names = ", ".join(answers[ref] for ref in silent)
            raise RuntimeError(f"no answer within {ANSWER_S} s from {names}")
        return [self.result(ref) for ref in done if not _node_is_gone(ref)]

    def submit(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Any]:
        task = ray.remote(function).options(**self._options)
        return [task.remote(argument) for argument in arguments]

    def ended(self, handles: Iterable[Any]) -> list[Any]:
        handles = list(handles)
        ray.wait(handles, num_returns=1)
        return ray.wait(handles, num_returns=len(handles), timeout=0)[0]

    def result(self, handle: Any) -> Any:
        try:
            return ray.get(handle)
        except RayTaskError as error:
            raise RuntimeError(f"a node cannot run the task: {error.cause}") from None
        except RayError as error:
            raise WorkerLost(_first_sentence(error)) from None

    def close(self) -> None:
        if self._own:
            ray.shutdown()


def _connect(address: str | None, again: bool = True) -> None:
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ImportError, RuntimeError) as error:
        if again and "Starting Ray client server failed" in str(error):
            _connect(address, again=False)  # a busy head: Ray gives its process 30 s to start
            return
        raise RuntimeError(f"Ray cannot be reached ({' '.join(str(error).split())})") from None


def _node_is_gone(handle: Any) -> bool:
    """Ray lists a node as alive for some seconds after its death."""
    try:
        ray.get(handle)
    except (NodeDiedError, TaskUnschedulableError):
        return True
    except RayError:
        return False
    return False


def _first_sentence(error: RayError) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {re.split(r'(?<=[.]) ', words)[0]}"
