"""Where the congestion game describes a router, and where it does not."""

from mfgjax.scope.card import scope_card
from mfgjax.scope.contraction import spectral_rate, vacuous, worst_case_rate
from mfgjax.scope.estimates import estimate_scope

__all__ = [
    "estimate_scope",
    "scope_card",
    "spectral_rate",
    "vacuous",
    "worst_case_rate",
]
