"""What a fit of mixtures returns: the estimate with the evidence for it."""

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from mfgjax.gaussian_moe.gates import why_unidentified
from mfgjax.gaussian_moe.layout import Layout
from mfgjax.gaussian_moe.model import Mixture
from mfgjax.gaussian_moe.polish import FLAT
from mfgjax.numerics.status import NamedInteger, repr_with_words


class MixtureStatus(NamedInteger):
    """Why a fit ended. Only `CONVERGED` certifies a local maximum inside the compact set."""

    CONVERGED = 0
    """The decrement is within tolerance, the information is positive definite, two starts or more came here,
    and nothing else that was found is nearly as likely."""
    FOUND_ONCE = 1
    """As `CONVERGED`, but one start alone came to this maximum: another may be higher."""
    AMBIGUOUS = 2
    """As `CONVERGED`, but less than `rival_gap` = 1.92 nats lower lies another maximum, or a temperature
    outside the 95% interval of this one: a 95% likelihood region holds both, and the interval does not."""
    AT_BOUND = 3
    """As `CONVERGED`, but parameters sit at a bound of the compact set and the likelihood rises beyond it: a
    separated gate, or an expert that has shrunk onto a few observations. `at_bound` says which."""
    FLAT = 4
    """A direction of the parameters leaves the likelihood as it is: `null_directions` names it."""
    NOT_MAXIMUM = 5
    """The score vanishes, but the information is not positive definite: a saddle, or an expert that the
    data hardly feel."""
    STEP_LIMIT = 6
    """The decrement is above tolerance after `max_steps`."""
    BAD_INPUT = 7
    """NaN or infinite values."""
    TOO_FEW = 8
    """No more observations than parameters."""
    DEGENERATE = 9
    """A constant y, a constant feature, or features that are linear combinations of each other."""


REASONS = {
    MixtureStatus.FOUND_ONCE: "one start alone came to this maximum: raise starts",
    MixtureStatus.AMBIGUOUS: "other parameters are nearly as likely, and lie outside the interval: see "
    "rival_gap; take more data",
    MixtureStatus.AT_BOUND: "a parameter is at its bound: see at_bound; raise gate_bound, or lower experts",
    MixtureStatus.FLAT: "not identified: null_directions names what the data leave free; lower experts",
    MixtureStatus.NOT_MAXIMUM: "the information is not positive definite: raise starts, or lower experts",
    MixtureStatus.STEP_LIMIT: "step limit: raise max_steps or starts",
    MixtureStatus.BAD_INPUT: "look for NaN or infinite values in x and y",
    MixtureStatus.TOO_FEW: "no more observations than parameters: lower experts",
    MixtureStatus.DEGENERATE: "y or a feature is constant, or features depend on each other linearly",
}


class MixtureFit(eqx.Module):
    """Fitted mixtures, float64; `*batch` is whatever the data had before the observations.

    Parameters are in the order of `names`, variances and temperature as logarithms.

    Attributes:
        mixture: the estimate; NaN where the data were refused (`BAD_INPUT`, `TOO_FEW`, `DEGENERATE`).
        vector: the same in the order of `names`.
        log_likelihood: total, nats.
        status: a `MixtureStatus`.
        decrement: `g' H^-1 g` of the total log-likelihood: squared distance to the maximum in standard
            errors.
        information: minus the Hessian of the total log-likelihood at the estimate.
        covariance: its inverse over what is neither at a bound nor flat; infinite on the diagonal for
            parameters of a null direction, NaN for those at a bound.
        robust_covariance: the sandwich, likewise: right where the model is not.
        eigenvalues: of the summed squares of the scores (the information, singular exactly where the model
            is), scaled to unit diagonal, ascending; 1 for parameters at a bound.
        directions: in columns, the direction of each eigenvalue, per unit of its parameters' scale.
        at_bound: parameters held at a bound of the compact set.
        start_log_likelihood: what each start reached; the last is `initial`'s. The search at other
            temperatures may have come higher.
        rival_gap: nats from the best to the next lower maximum that a search ended at, or to half or twice
            the temperature where that is outside its 95% interval; infinite where there is neither.
        agreeing: starts that reached the best, to a thousandth of a nat.
        steps: Newton steps of the best start.
        layout: which parameters are free. Static.
    """

    mixture: Mixture
    vector: Float[np.ndarray, "*batch parameter"]
    log_likelihood: Float[np.ndarray, "*batch"]
    status: Int[np.ndarray, "*batch"]
    decrement: Float[np.ndarray, "*batch"]
    information: Float[np.ndarray, "*batch parameter parameter"]
    covariance: Float[np.ndarray, "*batch parameter parameter"]
    robust_covariance: Float[np.ndarray, "*batch parameter parameter"]
    eigenvalues: Float[np.ndarray, "*batch parameter"]
    directions: Float[np.ndarray, "*batch parameter parameter"]
    at_bound: Bool[np.ndarray, "*batch parameter"]
    start_log_likelihood: Float[np.ndarray, "*batch start"]
    rival_gap: Float[np.ndarray, "*batch"]
    agreeing: Int[np.ndarray, "*batch"]
    steps: Int[np.ndarray, "*batch"]
    observations: int = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)

    def __repr__(self) -> str:
        return repr_with_words(self, MixtureStatus)

    @property
    def converged(self) -> Bool[np.ndarray, "*batch"]:
        return self.status == MixtureStatus.CONVERGED

    @property
    def found_twice(self) -> Bool[np.ndarray, "*batch"]:
        """Whether two starts or more reached the best likelihood."""
        return self.agreeing >= 2

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parameters, in the order of every matrix here."""
        return self.layout.names

    @property
    def smallest_eigenvalue(self) -> Float[np.ndarray, "*batch"]:
        """Of the unit-diagonal information: 1 is best, 0 is a null direction."""
        return self.eigenvalues[..., 0]

    @property
    def temperature_identified(self) -> Bool[np.ndarray, "*batch"]:
        """Whether `mixture.temperature` is an estimate of one."""
        known = np.isfinite(np.asarray(self.mixture.temperature))
        if not self.layout.free_temperature:
            return np.zeros_like(known)
        place = self.layout.of("log temperature")[0]
        spread = np.asarray(self.covariance)[..., place, place]
        return known & np.isfinite(spread) & np.asarray(self.converged)

    @property
    def reason(self) -> str:
        """Why the gate has no temperature; empty where it has one."""
        return why_unidentified(self.layout.gate_name, self.layout.experts)

    def samples_for_temperature(self, precision: float = 0.1) -> Float[np.ndarray, "*batch"]:
        """Observations at which the standard error of the temperature is `precision` of it; infinite where
        nothing identifies it."""
        shape = np.shape(self.log_likelihood)
        if not self.layout.free_temperature:
            return np.full(shape, np.inf)
        place = self.layout.of("log temperature")[0]
        spread = np.asarray(self.covariance)[..., place, place]
        return np.where(np.isnan(spread), np.inf, self.observations * spread / precision**2)

    def null_directions(self, index: tuple[int, ...] = ()) -> list[dict[str, float]]:
        """Of one fit, the directions that leave the likelihood as it is: change of each parameter by name,
        the largest scaled change 1; small ones left out."""
        values = np.asarray(self.eigenvalues)[index]
        found = []
        for column in np.asarray(self.directions)[index].T[np.abs(values) < FLAT]:
            column = column / column[np.abs(column).argmax()]
            shown = {n: float(v) for n, v in zip(self.names, column, strict=True) if abs(v) > 1e-3}
            found.append(shown)
        return found

    def interval(
        self, level: float = 0.95, *, robust: bool = False
    ) -> tuple[Float[np.ndarray, "*batch parameter"], Float[np.ndarray, "*batch parameter"]]:
        """Both ends for every parameter in the order of `names`, on the host.

        Args:
            level: nominal coverage.
            robust: from the sandwich; else from the information.
        """
        spread = np.asarray(self.robust_covariance if robust else self.covariance)
        error = np.sqrt(np.diagonal(spread, axis1=-2, axis2=-1))
        half = norm.ppf(0.5 + level / 2) * error
        return self.vector - half, self.vector + half


def check_mixture_fit(fit: MixtureFit) -> MixtureFit:
    """Returns `fit` if every data set converged; otherwise raises and says which did not.

    Raises:
        ValueError: with the index, the reason and what to do, for the first few.
    """
    status = np.asarray(fit.status)
    bad = np.argwhere(status != MixtureStatus.CONVERGED)
    if len(bad) == 0:
        return fit
    lines = []
    for index in bad[:5]:
        why = MixtureStatus(int(status[tuple(index)]))
        lines.append(f"  data set {tuple(index.tolist())}: {why.name}: {REASONS[why]}")
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise ValueError(
        f"{len(bad)} of {status.size} mixture fits failed:\n" + "\n".join(lines) + more
    )
