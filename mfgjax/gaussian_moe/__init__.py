"""Softmax-gated Gaussian mixtures of experts by maximum likelihood, which says what is identified.

    fit = fit_mixture(x, y, experts=2)                # x [data set, row, feature]: thousands at once
    fit.status, fit.decrement, fit.smallest_eigenvalue, fit.found_twice
    low, high = fit.interval(robust=True)             # in the order of fit.names
    fit_mixture(x, y, 2, gate="sigmoid").samples_for_temperature()
    samples_for_temperature(mixture, x)               # the same of a known mixture
    GaussianMoERegressor(experts=2).fit(x, y)         # one data set, in scikit-learn's manner
    router_temperature(trace)                         # does a trace identify a router's temperature?

What is and is not identified, and at which sample size: docs/gaussian-moe.md.
"""

from mfgjax.gaussian_moe.estimator import GaussianMoERegressor
from mfgjax.gaussian_moe.fit import fit_mixture
from mfgjax.gaussian_moe.information import samples_for_temperature
from mfgjax.gaussian_moe.model import Mixture
from mfgjax.gaussian_moe.router_temperature import router_temperature

__all__ = [
    "GaussianMoERegressor",
    "Mixture",
    "fit_mixture",
    "router_temperature",
    "samples_for_temperature",
]
