"""One data set in scikit-learn's manner."""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from mfgjax.gaussian_moe.fit import fit_mixture
from mfgjax.gaussian_moe.model import Mixture
from mfgjax.gaussian_moe.result import REASONS, MixtureStatus

_REFUSED = (MixtureStatus.BAD_INPUT, MixtureStatus.TOO_FEW, MixtureStatus.DEGENERATE)
_ROWS = 256


class GaussianMoERegressor(RegressorMixin, BaseEstimator):
    """Softmax-gated mixture of Gaussian experts by maximum likelihood; `score` is R squared.

    Args:
        experts, gate, starts, gate_bound, variance_floor, temperature_range: as in `fit_mixture`.
        random_state: seed or generator of the starts.

    Attributes:
        mixture_: the estimate.
        fit_: a `MixtureFit`, with status, intervals, null directions and the rest.
    """

    def __init__(
        self,
        experts: int = 2,
        *,
        gate: str = "linear",
        starts: int = 8,
        gate_bound: float = 50.0,
        variance_floor: float = 1e-6,
        temperature_range: tuple[float, float] = (1e-2, 1e2),
        random_state: Any = None,
    ):
        self.experts = experts
        self.gate = gate
        self.starts = starts
        self.gate_bound = gate_bound
        self.variance_floor = variance_floor
        self.temperature_range = temperature_range
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> "GaussianMoERegressor":
        """Fit; warns (`ConvergenceWarning`) of every status but `CONVERGED`, and says what to do.

        Raises:
            ValueError: no more observations than parameters, or a constant or dependent feature.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        fit = fit_mixture(
            X,
            np.asarray(y, float),
            self.experts,
            gate=self.gate,
            starts=self.starts,
            seed=int(check_random_state(self.random_state).randint(2**31 - 1)),
            gate_bound=self.gate_bound,
            variance_floor=self.variance_floor,
            temperature_range=self.temperature_range,
        )
        status = MixtureStatus(int(fit.status))
        if status in _REFUSED:
            raise ValueError(
                f"{status.name} ({len(y)} samples, {fit.layout.parameters} parameters): {REASONS[status]}"
            )
        if status != MixtureStatus.CONVERGED:
            message = f"{status.name}: {REASONS[status]}"
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        self.fit_ = fit
        self.mixture_ = fit.mixture
        self.n_iter_ = int(fit.steps)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Expectation of y at each row."""
        return self._by_row(_mean, X)

    def log_density(self, X: Any, y: Any) -> np.ndarray:
        """Log density of each y given its row, nats."""
        return self._by_row(_log_density, X, y)

    def sample(self, X: Any, random_state: Any = None) -> np.ndarray:
        """One draw of y for each row."""
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        return self._by_row(partial(_sample, seed=seed), X)

    def _by_row(self, function: Any, X: Any, y: Any = None) -> np.ndarray:
        check_is_fitted(self)
        if y is None:
            X = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, reset=False)
        count = len(X)
        filled = np.pad(X, ((0, -count % _ROWS), (0, 0)))  # few shapes to compile
        with jax.enable_x64(True):
            given = [jnp.asarray(filled)]
            if y is not None:
                given.append(jnp.asarray(np.pad(y.astype(float), (0, -count % _ROWS))))
            return np.asarray(function(self.mixture_, *given))[:count]


@jax.jit
def _mean(mixture: Mixture, x):
    return mixture.mean(x)


@jax.jit
def _log_density(mixture: Mixture, x, y):
    return mixture.log_density(x, y)


@jax.jit
def _sample(mixture: Mixture, x, seed):
    return mixture.sample(jax.random.key(seed), x)
