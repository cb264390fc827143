"""What is wrong with a run's balancing, while it runs.

    with Monitor("run/") as monitor:
        monitor.observe(step, {"layer_0": routing_sums(logits, choices), ...})

The torch front (`mfgjax_extract.callback`, `mfgjax_extract.loop`) hands over the same sums. A record per
sampled step, alarms that name fault, layer and evidence, `mfgjax watch run/` to see both. NumPy only:
JAX is imported when `routing_sums` is asked for, and a torch process never does.
"""

from typing import TYPE_CHECKING

from mfgjax.monitor.faults import Fault
from mfgjax.monitor.logged_names import read_logged
from mfgjax.monitor.monitor import Monitor
from mfgjax.monitor.sums import MonitorError

if TYPE_CHECKING:
    from mfgjax.monitor.jax_front import routing_sums

__all__ = [
    "Fault",
    "Monitor",
    "MonitorError",
    "read_logged",
    "routing_sums",
]


def __getattr__(name: str):
    if name == "routing_sums":
        from mfgjax.monitor.jax_front import routing_sums

        return routing_sums
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
