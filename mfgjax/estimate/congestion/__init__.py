"""One congestion from a quality and a load: the objectives, how each is minimised, what its fit carries."""
