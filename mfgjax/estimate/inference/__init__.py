"""From per-text sums to estimates that know their noise: qualities, weights of texts, resamples, intervals."""
