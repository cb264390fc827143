"""Signed congestion corrected for the noise of few texts, with an interval that covers.

The kl congestion is the root of

    psi(gamma) = sum_i load_i (load_i - phi_gamma(load)_i),                                   (1)

which is all but quadratic in the noise of load and quality. Noise adds its variance to `sum load^2`,
so psi is biased, and its root, a ratio of the two parts of psi, is biased and skewed: `gamma + M` is
multiplied by the share of the variance of the load that is not noise (errors in variables), and a
jackknife of the root itself is off by terms of second order. The jackknife of psi at fixed gamma is
not: with texts t left out in turn (pseudo-values, Quenouille 1956; Tukey 1958),

    psi_t(gamma) = S psi(gamma) - (S - 1) psi_without_t(gamma),                               (2)

the mean over t has no bias of first order, what is left is of third, and its standard error is the
spread of psi_t. The corrected congestion is the root of the mean; an interval is the set of gamma
where the mean is within t quantiles of zero (Fieller 1954 for a ratio; here psi_t linearised at the
root). When the noise outweighs the signal that set is unbounded, and is returned as such.

The analytic correction, the share of noise from independent dispatches (benchmarks/studies/recovery.py), is
not in the package: it takes the tokens of a text for independent. At a true 30 and 50 texts of 200
tokens it gives 28.9 with texts alike and 18.4 with unlike ones; the root above 30.1 and 30.4.

The L1 fit has no smooth score to jackknife, but noise in the load attenuates it as it does the kl fit.
So its correction is borrowed: with r the share of the variance of the load that is not noise,

    corrected_l1 = corrected_kl + (l1 - kl) / r,    resample -> corrected_l1 + (l1* - mean l1*) / r.  (3)

Measured coverage of a nominal 95% (`python -m benchmarks.studies.coverage_corrected`): 96 to 98% with enough
tokens, where resampled loads hold their noise twice and l1* spreads too far; 91 to 93% at the paper's
size and with very unlike texts, where r is itself uncertain and (3) takes it as known.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mfgjax.estimate.inference.interval import Interval, t_over_normal, t_quantile

_STEPS = 16


LEAST_SHARE = 0.05
"""A smaller share of signal says that the load is noise; the interval is then unbounded."""


class CorrectedFit(eqx.Module):
    """A corrected congestion per instance, and what each text does to it.

    Attributes:
        congestion: the root; NaN where `identified` is false.
        score: psi_t at the root, one per text; they sum to 0.
        slope: derivative of psi_t in gamma at the root, one per text.
        raw_slope: derivative of (1), without the jackknife, at the root: the variance of the load
            with its noise. The mean of `slope` over it is the share that is not noise.
        identified: whether the search converged and the mean slope is positive. If not, the load
            differs from uniform by no more than its noise, and says nothing about congestion.
    """

    congestion: Float[Array, "*batch"]
    score: Float[Array, " text *batch"]
    slope: Float[Array, " text *batch"]
    raw_slope: Float[Array, "*batch"]
    identified: Bool[Array, "*batch"]

    @property
    def influence(self) -> Float[Array, " text *batch"]:
        """What each text adds to the estimate, times the number of texts; means of 0.

        Influences of the same texts on other layers, checkpoints or estimates add up: the standard
        error of any sum or difference is `influence_error` of the summed influences.
        """
        # On the host in NumPy: nothing to compile there.
        xp = np if isinstance(self.slope, np.ndarray) else jnp
        safe = xp.where(self.identified, self.slope.mean(0), xp.nan)
        return -self.score / safe[None]


@jax.jit
def fit_corrected(
    start: Float[Array, "*batch"],
    quality: Float[Array, "*batch expert"],
    load: Float[Array, "*batch expert"],
    quality_without: Float[Array, "text *batch expert"],
    load_without: Float[Array, "text *batch expert"],
    temperature: float | Float[Array, ""] = 1.0,
) -> CorrectedFit:
    """Root of the jackknifed score, by Newton steps from the uncorrected fit. Never raises.

    Args:
        start: the kl congestion of `quality` and `load`.
        quality: from all texts.
        load: from all texts.
        quality_without: with each text (or group of texts) left out, `leave_one_out_weights`.
        load_without: the same.
        temperature: of the softmax. Traced.
    """
    texts, experts = load_without.shape[0], load.shape[-1]
    temperature = jnp.asarray(temperature, load.dtype)

    def score(congestion, quality, load):
        def one(gamma):
            logits = (quality - gamma[..., None] * load) / temperature
            response = jax.nn.softmax(logits, axis=-1)
            # load - response sums to 0, so a constant may be taken off load: what is rounded away of
            # a nearly uniform load is then 30 to 50 times less.
            return ((load - 1 / experts) * (load - response)).sum(-1)

        return jax.jvp(one, (congestion,), (jnp.ones_like(congestion),))

    def pseudo(congestion):
        whole = score(congestion, quality, load)
        many = jnp.broadcast_to(congestion, (texts, *congestion.shape))
        without = score(many, quality_without, load_without)
        value, slope = (
            texts * both[None] - (texts - 1) * rest
            for both, rest in zip(whole, without, strict=True)
        )
        return value, slope, whole[1]

    # Evaluated in the loop only, once more than it moves: (1) and its derivative are compiled once.
    def step(_, state):
        before, move, *_ = state
        congestion = before + move
        value, slope, raw_slope = pseudo(congestion)
        mean, steep = value.mean(0), slope.mean(0)
        reach = 2 * (jnp.abs(congestion) + experts * temperature)
        following = jnp.clip(-mean / jnp.where(steep > 0, steep, jnp.nan), -reach, reach)
        return congestion, following, jnp.abs(move), value, slope, raw_slope

    none = jnp.zeros((texts, *start.shape), load.dtype)
    first = (start, jnp.zeros_like(start), start, none, none, jnp.zeros_like(start))
    congestion, _, move, value, slope, raw_slope = jax.lax.fori_loop(0, _STEPS + 1, step, first)
    # A difference of nearly equal sums: in float32 the root of a nearly uniform load is good to a
    # thousandth or so of its distance from -M.
    done = move <= 5e-3 * (experts + jnp.abs(congestion))
    identified = done & (slope.mean(0) > 0)
    return CorrectedFit(
        congestion=jnp.where(identified, congestion, jnp.nan),
        score=value - value.mean(0)[None],
        slope=slope,
        raw_slope=raw_slope,
        identified=identified,
    )


def influence_error(influence):
    """Standard error `[*batch]` of an estimate whose pseudo-values are `influence` plus a constant.

    Args:
        influence: `[text, *batch]`, of NumPy or JAX.
    """
    texts = influence.shape[0]
    return influence.std(0, ddof=1) / texts**0.5


def score_interval(fit: CorrectedFit, level: float = 0.95) -> Interval:
    """Fieller's interval of the corrected congestion; unbounded ends are infinite.

    Runs on the host.

    Args:
        fit: of any batch shape.
        level: nominal coverage.
    """
    score, slope = np.asarray(fit.score, float), np.asarray(fit.slope, float)
    texts = score.shape[0]
    scale = t_quantile(texts, level) ** 2 / (texts * (texts - 1))
    mean = slope.mean(0)
    centred = slope - mean[None]
    # Ends: mean^2 d^2 = t^2 (var of the mean of score + slope d), d the distance from the root.
    square = mean**2 - scale * (centred**2).sum(0)
    cross = scale * (score * centred).sum(0)
    free = scale * (score**2).sum(0)
    bounded = np.asarray(fit.identified) & (square > 0)
    safe = np.where(bounded, square, 1)
    root = np.sqrt(np.maximum(cross**2 + safe * free, 0))
    centre = np.asarray(fit.congestion, float)
    lower = np.where(bounded, centre + (cross - root) / safe, -np.inf)
    upper = np.where(bounded, centre + (cross + root) / safe, np.inf)
    return lower, upper


def correct_l1(
    congestion: np.ndarray, signed: np.ndarray, corrected: CorrectedFit
) -> tuple[np.ndarray, np.ndarray]:
    """Corrected L1 congestion and the share r; both NaN where there is no telling.

    Not cut off at 0: an average over layers must not be of values that were.

    Args:
        congestion: L1 fit whose search range reaches below 0.
        signed: kl fit of the same quality and load.
        corrected: of the same; its slopes give r.
    """
    raw, slope = np.asarray(corrected.raw_slope), np.asarray(corrected.slope).mean(0)
    share = np.where(raw > 0, slope / np.where(raw > 0, raw, 1), np.nan)
    known = np.asarray(corrected.identified) & (share > LEAST_SHARE)
    share = np.where(known, np.minimum(share, 1), np.nan)
    return np.asarray(corrected.congestion) + (congestion - signed) / share, share


def correct_resamples(
    resampled: np.ndarray,
    congestion: np.ndarray,
    signed: np.ndarray,
    corrected: CorrectedFit,
    level: float = 0.95,
) -> np.ndarray:
    """Resamples (3) of the L1 congestion, not cut off at 0, for percentiles, differences and bands.

    Deviations are stretched from normal to t quantiles of the number of texts, for `level`.

    Args:
        resampled: L1 fits, leading axis `resample`, with a search range below 0.
        congestion: the same from all texts.
        signed: the kl fit from all texts.
        corrected: the corrected kl fit.
        level: of the interval that they are for.
    """
    centre, share = correct_l1(congestion, signed, corrected)
    stretch = t_over_normal(np.asarray(corrected.score).shape[0], level)
    wide = (stretch / share).astype(resampled.dtype)
    moved = (centre - wide * resampled.mean(0)).astype(resampled.dtype)
    return moved[None] + wide[None] * resampled
