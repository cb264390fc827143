"""Where the congestion game describes a router, and where it does not."""

from mfgjax.scope.card import IN_SCOPE, MARGINAL, OUT, scope_card
from mfgjax.scope.continuation import (
    ContinuationSpread,
    estimate_continuation,
    shuffled_continuation,
)
from mfgjax.scope.contraction import spectral_rate, vacuous, worst_case_rate
from mfgjax.scope.coupling import Coupling, estimate_coupling
from mfgjax.scope.estimates import ScopeEstimates, estimate_scope
from mfgjax.scope.truncation import measure_truncation

__all__ = [
    "IN_SCOPE",
    "MARGINAL",
    "OUT",
    "ContinuationSpread",
    "Coupling",
    "ScopeEstimates",
    "estimate_continuation",
    "estimate_coupling",
    "estimate_scope",
    "measure_truncation",
    "scope_card",
    "shuffled_continuation",
    "spectral_rate",
    "vacuous",
    "worst_case_rate",
]
