"""Where the congestion game describes a router, and where it does not."""

from mfgjax.scope.bounds import (
    anti_concentration_bound,
    coupling_bound,
    coupling_bound_without_contraction,
    top_k_bound,
    top_k_bound_from_mass,
)
from mfgjax.scope.card import IN_SCOPE, MARGINAL, OUT, scope_card
from mfgjax.scope.continuation import (
    ContinuationSpread,
    continuation_spread,
    estimate_continuation,
    favourite_experts,
    shuffled_continuation,
    spread_of_counts,
    token_dispatch,
)
from mfgjax.scope.contraction import l1_rate, spectral_rate, vacuous, worst_case_rate
from mfgjax.scope.coupling import Coupling, estimate_coupling, layered_quality
from mfgjax.scope.estimates import ScopeEstimates, estimate_scope
from mfgjax.scope.truncation import Truncation, measure_truncation

__all__ = [
    "IN_SCOPE",
    "MARGINAL",
    "OUT",
    "ContinuationSpread",
    "Coupling",
    "ScopeEstimates",
    "Truncation",
    "anti_concentration_bound",
    "continuation_spread",
    "coupling_bound",
    "coupling_bound_without_contraction",
    "estimate_continuation",
    "estimate_coupling",
    "estimate_scope",
    "favourite_experts",
    "l1_rate",
    "layered_quality",
    "measure_truncation",
    "scope_card",
    "shuffled_continuation",
    "spectral_rate",
    "spread_of_counts",
    "token_dispatch",
    "top_k_bound",
    "top_k_bound_from_mass",
    "vacuous",
    "worst_case_rate",
]
