"""Ctrl-C arrives, even where Python drops what is raised.

Python raises KeyboardInterrupt in whatever runs. In a callback of the garbage collector (jax has
one) or a destructor, it reports the exception to `sys.unraisablehook` and goes on: the run ends
hours later as if nothing had been asked. Here the hook asks again a moment later, outside.
"""

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN_AFTER = 0.05
"""Seconds until Ctrl-C is raised again: such callbacks are over by then."""


def _ask_again() -> None:
    if hasattr(signal, "pthread_kill"):  # wakes the main thread where it sleeps or waits
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()


@contextmanager
def ctrl_c_arrives() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block, or at its end, when Ctrl-C was dropped inside."""
    before = sys.unraisablehook
    waiting: list[threading.Timer] = []

    def hook(unraisable) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        timer = threading.Timer(AGAIN_AFTER, _ask_again)
        timer.daemon = True
        waiting.append(timer)
        timer.start()

    sys.unraisablehook = hook
    try:
        yield
        if any(timer.is_alive() for timer in waiting):
            raise KeyboardInterrupt
    finally:
        for timer in waiting:
            timer.cancel()
        sys.unraisablehook = before
