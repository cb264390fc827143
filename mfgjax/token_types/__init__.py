"""Token types: how many, found by k-means or by likelihood, and what becomes of them in training."""
