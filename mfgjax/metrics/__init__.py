"""Classic load-balance metrics, per layer. Loaded when asked for: the sampling floor needs no JAX."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax.metrics.groups_of_layers import layer_groups
    from mfgjax.metrics.per_layer import (
        PERCENTILES,
        BalanceMetrics,
        measure_balance,
        percentiles_over_layers,
    )
    from mfgjax.metrics.sampling_floor import max_violation_floor

__all__ = [
    "PERCENTILES",
    "BalanceMetrics",
    "layer_groups",
    "max_violation_floor",
    "measure_balance",
    "percentiles_over_layers",
]

_HOME = {"layer_groups": "groups_of_layers", "max_violation_floor": "sampling_floor"}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # No file may bear the name of what it exports: the import would put the module in its place.
    home = importlib.import_module(f"mfgjax.metrics.{_HOME.get(name, 'per_layer')}")
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__  # so that tools which list names find those that were not asked for yet
