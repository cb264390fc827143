"""Effective congestion over training: trajectories and their phases."""
