"""Token types: how many, found by k-means or by likelihood, and what becomes of them in training."""

from mfgjax.token_types.evaluate import dispatch_of, evaluate_types
from mfgjax.token_types.fit import TypeFit, fit_types
from mfgjax.token_types.gap import Gap, gap_statistic
from mfgjax.token_types.held_out import METHODS, HeldOutTypes, cross_validate_types
from mfgjax.token_types.kmeans import TokenTypes, centred, find_types, k_means, nearest_type
from mfgjax.token_types.likelihood import TokenLikelihood, TypeModel, token_likelihood
from mfgjax.token_types.matching import match_labels, match_qualities
from mfgjax.token_types.over_training import TypesOverTraining, track_types
from mfgjax.token_types.over_training_tables import (
    type_separation_table,
    types_over_training_table,
)
from mfgjax.token_types.stability import clustering_stability
from mfgjax.token_types.tables import (
    choose_types,
    type_count_table,
    type_fit_table,
    type_load_table,
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
    "type_count_table",
    "type_fit_table",
    "type_load_table",
    "type_separation_table",
    "types_over_training_table",
]
