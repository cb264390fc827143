"""Classic load-balance metrics, per layer. Loaded when asked for: the sampling floor needs no JAX."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax.metrics.balance import (
        balancedness,
        coefficient_of_variation,
        dead_experts,
        gini,
        hill_number,
        max_absolute_violation,
        max_min_ratio,
        max_violation,
        share_of,
    )
    from mfgjax.metrics.groups_of_layers import layer_groups
    from mfgjax.metrics.per_layer import (
        PERCENTILES,
        BalanceMetrics,
        measure_balance,
        percentiles_over_layers,
    )
    from mfgjax.metrics.sampling_floor import (
        load_noise,
        max_absolute_violation_floor,
        max_violation_floor,
    )

__all__ = [
    "PERCENTILES",
    "BalanceMetrics",
    "balancedness",
    "coefficient_of_variation",
    "dead_experts",
    "gini",
    "hill_number",
    "layer_groups",
    "load_noise",
    "max_absolute_violation",
    "max_absolute_violation_floor",
    "max_min_ratio",
    "max_violation",
    "max_violation_floor",
    "measure_balance",
    "percentiles_over_layers",
    "share_of",
]

_PER_LAYER = {"PERCENTILES", "BalanceMetrics", "measure_balance", "percentiles_over_layers"}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "layer_groups":
        # No file may bear the name of what it exports: the import would put the module in its place.
        home = "groups_of_layers"
    elif name in _PER_LAYER:
        home = "per_layer"
    else:
        home = "sampling_floor" if name.endswith(("_floor", "_noise")) else "balance"
    return getattr(importlib.import_module(f"mfgjax.metrics.{home}"), name)


def __dir__() -> list[str]:
    return __all__  # so that tools which list names find those that were not asked for yet
