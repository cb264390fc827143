"""Static comparison: the game against softmax, clustering and transport on held-out texts."""

from mfgjax.comparison.compare import StaticComparison, compare_static
from mfgjax.comparison.distance import DISTANCES, js_divergence, kl_divergence, l1_distance
from mfgjax.comparison.refit import Refits, refit_static, refitted_differences
from mfgjax.comparison.split import Split, three_way_split
from mfgjax.comparison.tables import (
    group_errors,
    layer_errors,
    paired_differences,
    standard_pairs,
)
from mfgjax.comparison.transport import sinkhorn_choices

__all__ = [
    "DISTANCES",
    "Refits",
    "Split",
    "StaticComparison",
    "compare_static",
    "group_errors",
    "js_divergence",
    "kl_divergence",
    "l1_distance",
    "layer_errors",
    "paired_differences",
    "refit_static",
    "refitted_differences",
    "sinkhorn_choices",
    "standard_pairs",
    "three_way_split",
]
