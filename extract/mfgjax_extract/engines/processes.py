"""Processes on this machine, one pool of one worker per place.

A pool whose worker is killed is broken as a whole: with one worker each, a kill costs one
checkpoint and not those beside it. Each place has GPUs of its own.
"""

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from . import WorkerLost
from .needs import Needs

_at_work = threading.Lock()


class Processes:
    """The engine `local:N`."""

    def __init__(self, workers: int, needs: Needs):
        self.at_once = workers
        self._gpus = _share_of_gpus(workers, needs.gpu)
        _check_memory(workers, needs.memory)
        self._pools = [self._fresh(place) for place in range(workers)]
        self._place: dict[Future, int] = {}

    def _fresh(self, place: int) -> ProcessPoolExecutor:
        # Not fork: torch and CUDA do not survive it.
        spawn = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(1, spawn, initializer=_begin, initargs=(self._gpus[place],))

    def on_every_node(self, function: Callable[[Any], Any], argument: Any) -> list[Any]:
        return [function(argument)]  # the node is this one

    def submit(self, function: Callable[[Any], Any], arguments: Sequence[Any]) -> list[Future]:
        free = sorted(set(range(len(self._pools))) - set(self._place.values()))
        started = []
        for place, argument in zip(free, arguments, strict=False):
            future = self._pools[place].submit(_work, function, argument)
            self._place[future] = place
            started.append(future)
        return started

    def ended(self, handles: Iterable[Future]) -> list[Future]:
        return list(wait(list(handles), return_when=FIRST_COMPLETED).done)

    def result(self, handle: Future) -> Any:
        place = self._place.pop(handle)
        try:
            return handle.result()
        except BrokenProcessPool:
            self._pools[place].shutdown(wait=False)
            self._pools[place] = self._fresh(place)
            raise WorkerLost("its process was killed") from None

    def close(self) -> None:
        for pool in self._pools:
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(gpus: str | None) -> None:
    """In a new worker, before torch is there."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    threading.Thread(target=_end_after_the_driver, daemon=True).start()


def _end_after_the_driver() -> None:
    """A killed driver leaves a worker that waits for ever; what it is at, it may finish."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    _at_work.acquire()
    os._exit(1)


def _work(function: Callable[[Any], Any], argument: Any) -> Any:
    with _at_work:
        return function(argument)


def _share_of_gpus(workers: int, each: int) -> list[str | None]:
    if not each:
        return [None] * workers
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        try:
            listed = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.CalledProcessError):
            raise ValueError(f"gpu={each}: nvidia-smi finds no GPU here") from None
        count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
        gpus = [str(i) for i in range(count)]
    else:
        gpus = [name for name in named.split(",") if name]
    if len(gpus) < workers * each:
        raise ValueError(
            f"--on local:{workers} with gpu={each} needs {workers * each} GPUs; there are {len(gpus)}"
        )
    return [",".join(gpus[i * each : (i + 1) * each]) for i in range(workers)]


def _check_memory(workers: int, each: int | None) -> None:
    if each is None or not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if workers * each > there:
        raise ValueError(
            f"--on local:{workers} with memory={each / 1e9:g}GB needs {workers * each / 1e9:g} GB; "
            f"this machine has {there / 1e9:.0f} GB"
        )
