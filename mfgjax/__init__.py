"""The router of a Mixture-of-Experts model as a congestion game, in JAX."""
