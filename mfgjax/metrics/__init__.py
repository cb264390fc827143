"""Classic load-balance metrics, per layer."""
