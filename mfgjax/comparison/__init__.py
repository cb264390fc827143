"""Static comparison: the game against softmax, clustering and transport on held-out texts."""

from mfgjax.comparison.compare import StaticComparison, compare_static
from mfgjax.comparison.refit import Refits, refit_static

__all__ = [
    "Refits",
    "StaticComparison",
    "compare_static",
    "refit_static",
]
