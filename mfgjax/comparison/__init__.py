"""Static comparison: the game against softmax, clustering and transport on held-out texts."""

from mfgjax.comparison.compare import StaticComparison, compare_static
from mfgjax.comparison.distance import DISTANCES, js_divergence, kl_divergence, l1_distance
from mfgjax.comparison.models import sinkhorn_choices
from mfgjax.comparison.refit import Refits, refit_static
from mfgjax.comparison.split import Split, three_way_split

__all__ = [
    "DISTANCES",
    "Refits",
    "Split",
    "StaticComparison",
    "compare_static",
    "js_divergence",
    "kl_divergence",
    "l1_distance",
    "refit_static",
    "sinkhorn_choices",
    "three_way_split",
]
