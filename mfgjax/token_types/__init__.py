"""Token types: how many, found by k-means or by likelihood, and what becomes of them in training."""

from mfgjax.token_types.held_out import cross_validate_types
from mfgjax.token_types.how_many import gap_statistic
from mfgjax.token_types.over_training import track_types

__all__ = [
    "cross_validate_types",
    "gap_statistic",
    "track_types",
]
