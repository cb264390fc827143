"""The mean-field limit of the reinforcement rule as an ordinary differential equation.

    score' = increment * load(score) - decay * score,

integrated with diffrax (Tsit5, adaptive; `pip install 'mfgjax[bifurcation]'`, imported when used). A
gradient flow: every run ends in an equilibrium.

In units of the decay time and of logits it reads

    logits' = quality + feedback * softmax(logits) - logits,                              (1)

whose Jacobian `feedback (diag(load) - load load^T) - 1` is symmetric: eigenvalues are real, no state
oscillates, and a state is stable where the largest is negative. Derived here.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.special import erf
from jaxtyping import Array, Float

from mfgjax.bifurcation.response import SOFTMAX, Response
from mfgjax.bifurcation.router import ReinforcedRouter
from mfgjax.bifurcation.simulate import Routing
from mfgjax.bifurcation.two_expert import drift

_RTOL = 1e-8  # of a step; absolute is the same in score units
_MOST_STEPS = 100_000


def expected_load(
    score: Float[Array, " experts"],
    router: ReinforcedRouter,
    *,
    routing: Routing = Routing.SOFTMAX,
    token_noise: Float[Array, ""] | float = 0.0,
) -> Float[Array, " experts"]:
    """Mean dispatch fractions at these scores; noisy top-1 for two experts only.

    Raises:
        ValueError: `NOISY_TOP1` with another number of experts: its load is then an integral over
            the noise that has no closed form. Simulate it instead.
    """
    if routing is Routing.SOFTMAX:
        return jax.nn.softmax(router.sharpness * score + router.bias)
    if score.shape[0] != 2:
        raise ValueError(f"the mean load of noisy top-1 is known for 2 experts, got {len(score)}")
    seen = score + router.bias / router.sharpness
    gap = erf((seen[0] - seen[1]) / (2.0 * token_noise))  # gap noise is sqrt(2) token_noise
    return 0.5 * jnp.stack([1.0 + gap, 1.0 - gap])


def integrate_scores(
    router: ReinforcedRouter,
    score: Float[Array, " experts"],
    times: Float[Array, " times"],
) -> Float[Array, "times experts"]:
    """Scores at `times`, starting from `score` at time 0; infinite where the integration failed.

    Args:
        router: one router; batch with `jax.vmap`.
        score: start.
        times: ascending, in the router's unit of time.
    """

    def field(_, score, __):
        return router.increment * expected_load(score, router) - router.decay * score

    return _integrate(field, score, times)


def integrate_gap(
    gap: Float[Array, ""],
    times: Float[Array, " times"],
    strength: Float[Array, ""],
    asymmetry_start: Float[Array, ""],
    asymmetry_rate: Float[Array, ""],
    response: Response = SOFTMAX,
) -> Float[Array, " times"]:
    """Two experts in scaled form, the asymmetry moving at a constant rate: one leg of a sweep.

    Times are in units of the decay time; `asymmetry_rate` in gap units per decay time.
    """

    def field(time, gap, _):
        return drift(gap, strength, asymmetry_start + asymmetry_rate * time, response)

    return _integrate(field, gap, times)


def _integrate(field, start, times) -> Float[Array, "times ..."]:
    import diffrax

    dtype = start.dtype
    rtol = max(_RTOL, 10.0 * float(jnp.finfo(dtype).eps))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=jnp.zeros((), dtype),
        t1=times[-1],
        dt0=None,
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=rtol),
        max_steps=_MOST_STEPS,
        throw=False,
    )
    return jnp.asarray(solution.ys)


def settle(
    router: ReinforcedRouter,
    score: Float[Array, " experts"],
    *,
    decay_times: float = 200.0,
) -> Float[Array, " experts"]:
    """Load in which the router ends from `score`: which basin of attraction the start lies in.

    Integrates for `decay_times`; close to a fold the approach is slower, so compare with an
    equilibrium before naming it.
    """
    horizon = jnp.full((1,), decay_times, score.dtype) / router.decay
    end = integrate_scores(router, score, horizon)[-1]
    return expected_load(end, router)


class LogitDrift(eqx.Module):
    """Right side of (1) for one quality, as a function of (logits, feedback) for `trace_branch`.

    Zero exactly at the equilibria with congestion `-feedback`.
    """

    quality: Float[Array, " experts"]

    def __call__(
        self, logits: Float[Array, " experts"], feedback: Float[Array, ""]
    ) -> Float[Array, " experts"]:
        return self.quality + feedback * jax.nn.softmax(logits) - logits


def drift_jacobian(
    load: Float[Array, " experts"], feedback: Float[Array, ""]
) -> Float[Array, "experts experts"]:
    """Jacobian of (1) at a state with this load, per decay time."""
    size = load.shape[0]
    spread = jnp.diag(load) - load[:, None] * load[None, :]
    return feedback * spread - jnp.eye(size, dtype=load.dtype)


def growth_rates(
    load: Float[Array, " experts"], feedback: Float[Array, ""]
) -> Float[Array, " experts"]:
    """Rates at which perturbations grow, ascending, per decay time; the last decides stability."""
    return jnp.linalg.eigvalsh(drift_jacobian(load, feedback))
