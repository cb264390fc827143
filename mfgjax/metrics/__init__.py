"""Classic load-balance metrics, per layer. Loaded when asked for: the sampling floor needs no JAX."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax.metrics.per_layer import measure_balance
    from mfgjax.metrics.sampling_floor import max_violation_floor

__all__ = [
    "max_violation_floor",
    "measure_balance",
]

_HOME = {"max_violation_floor": "sampling_floor", "measure_balance": "per_layer"}


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # No file may bear the name of what it exports: the import would put the module in its place.
    return getattr(importlib.import_module(f"mfgjax.metrics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__  # so that tools which list names find those that were not asked for yet
