"""Trainable two-expert layers driven through the threshold. Needs flax and scikit-learn."""
