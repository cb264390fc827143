"""Token types: how many, found by k-means or by likelihood, and what becomes of them in training."""

from mfgjax.token_types.fit import TypeFit, fit_types
from mfgjax.token_types.held_out import METHODS, HeldOutTypes, cross_validate_types
from mfgjax.token_types.how_many import Gap, choose_types, clustering_stability, gap_statistic
from mfgjax.token_types.kmeans import TokenTypes, centred, find_types, k_means, nearest_type
from mfgjax.token_types.likelihood import (
    TokenLikelihood,
    TypeModel,
    dispatch_of,
    evaluate_types,
    token_likelihood,
)
from mfgjax.token_types.over_training import (
    TypesOverTraining,
    match_labels,
    match_qualities,
    track_types,
)

__all__ = [
    "METHODS",
    "Gap",
    "HeldOutTypes",
    "TokenLikelihood",
    "TokenTypes",
    "TypeFit",
    "TypeModel",
    "TypesOverTraining",
    "centred",
    "choose_types",
    "clustering_stability",
    "cross_validate_types",
    "dispatch_of",
    "evaluate_types",
    "find_types",
    "fit_types",
    "gap_statistic",
    "k_means",
    "match_labels",
    "match_qualities",
    "nearest_type",
    "token_likelihood",
    "track_types",
]
