"""Where the congestion game describes a router, and where it does not."""

from mfgjax.scope.contraction import spectral_rate, worst_case_rate

__all__ = [
    "spectral_rate",
    "worst_case_rate",
]
