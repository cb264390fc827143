"""Token types: how many, found by k-means or by likelihood, and what becomes of them in training."""

from mfgjax.token_types.held_out import METHODS, HeldOutTypes, cross_validate_types
from mfgjax.token_types.how_many import choose_types, clustering_stability, gap_statistic
from mfgjax.token_types.kmeans import TokenTypes, centred, find_types, k_means
from mfgjax.token_types.likelihood import dispatch_of
from mfgjax.token_types.over_training import TypesOverTraining, track_types

__all__ = [
    "METHODS",
    "HeldOutTypes",
    "TokenTypes",
    "TypesOverTraining",
    "centred",
    "choose_types",
    "clustering_stability",
    "cross_validate_types",
    "dispatch_of",
    "find_types",
    "gap_statistic",
    "k_means",
    "track_types",
]
