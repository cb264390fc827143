"""Classic load-balance metrics, per layer."""

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
from mfgjax.metrics.layer_groups import layer_groups
from mfgjax.metrics.per_layer import (
    PERCENTILES,
    BalanceMetrics,
    measure_balance,
    percentiles_over_layers,
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
    "max_absolute_violation",
    "max_min_ratio",
    "max_violation",
    "measure_balance",
    "percentiles_over_layers",
    "share_of",
]
