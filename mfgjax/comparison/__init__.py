"""Static comparison: the game against softmax, clustering and transport on held-out texts."""

from mfgjax.comparison.compare import compare_static

__all__ = [
    "compare_static",
]
