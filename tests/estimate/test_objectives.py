"""`fit_congestion`: l1 is global and certified, kl is the convex optimum, failures are reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.optimize import minimize_scalar

from mfgjax.estimate import FitStatus, check_fit, fit_congestion

GRID_ERROR = 1e-6  # a certified l1 residual may exceed the dense grid's by this, no more
FLOAT32 = 5e-6  # rounding of an L1 residual of 64 terms, and its certificate

fit_l1 = jax.jit(lambda q, mu: fit_congestion(q, mu, "l1"))
fit_uncounted = jax.jit(lambda q, mu: fit_congestion(q, mu, "l1", count_minima=False))
fit_kl = jax.jit(lambda q, mu: fit_congestion(q, mu, "kl"))


def response(quality, load, congestion):
    logits = quality - congestion[..., None] * load
    weight = np.exp(logits - logits.max(-1, keepdims=True))
    return weight / weight.sum(-1, keepdims=True)


def residual(quality, load, congestion):
    return np.abs(response(quality, load, congestion) - load).sum(-1)


def random_instances(rng, batch, experts):
    quality = rng.normal(size=(batch, experts)) * rng.uniform(0.2, 2, size=(batch, 1))
    load = rng.dirichlet(np.full(experts, 3.0), size=batch)
    return quality, load


def router_instances(rng, batch, experts):
    """Loads of a top-K router without balancing: log load is about h q / sigma, plus noise."""
    quality = 0.3 * rng.normal(size=(batch, experts))
    logits = 1.65 * quality / rng.uniform(1.5, 3, size=(batch, 1))
    load = np.exp(logits + 0.1 * rng.normal(size=quality.shape))
    return quality, load / load.sum(-1, keepdims=True)


def dense_grid(quality, load):
    unit = 1 / np.ptp(load, axis=-1)
    thetas = np.concatenate([np.linspace(0, 12, 1200), np.geomspace(12, 2000, 300)])
    return np.min([residual(quality, load, t * unit) for t in thetas], axis=0)


@pytest.mark.parametrize("make", [random_instances, router_instances])
@pytest.mark.parametrize("experts", [8, 64])
def test_l1_is_never_worse_than_a_dense_grid(make, experts):
    quality, load = make(np.random.default_rng(0), 400, experts)
    reference = dense_grid(quality, load)
    for dtype, slack in ((np.float64, GRID_ERROR), (np.float32, FLOAT32)):
        fit = fit_uncounted(jnp.asarray(quality, dtype), jnp.asarray(load, dtype))
        assert fit.congestion.dtype == dtype
        converged = np.asarray(fit.converged)
        assert converged.mean() > 0.99
        congestion = np.asarray(fit.congestion, np.float64)
        reached = residual(quality, load, congestion)
        assert (reached - reference)[converged].max() <= slack
        np.testing.assert_allclose(fit.residual, reached, atol=FLOAT32)


def test_two_minima_of_the_counterexample_are_both_seen():
    quality, load = np.array([1.7, -3.2, 1.2]), np.array([0.40, 0.29, 0.31])
    fit = check_fit(fit_l1(jnp.asarray(quality), jnp.asarray(load)))
    assert int(fit.minima) == 2
    assert float(fit.residual) == pytest.approx(0.562, abs=1e-3)
    assert float(fit.congestion) == pytest.approx(9.9, abs=0.1)
    trapped = minimize_scalar(
        lambda g: residual(quality, load, np.asarray(g)), bounds=(50, 400), method="bounded"
    )
    assert trapped.x == pytest.approx(175, abs=2) and trapped.fun == pytest.approx(0.800, abs=1e-3)


def equilibrium(rng, experts, congestion, temperature=1.0):
    """An exact equilibrium: choose the load, and the quality that makes it one."""
    load = rng.dirichlet(np.full(experts, 20.0))
    return temperature * np.log(load) + congestion * load, load


@pytest.mark.parametrize("objective", ["l1", "kl"])
def test_exact_equilibrium_is_recovered(objective):
    rng = np.random.default_rng(1)
    solve = jax.jit(lambda q, mu: fit_congestion(q, mu, objective, 0.7, count_minima=False))
    for congestion in (0.0, 3.0, 36.0):
        quality, load = equilibrium(rng, 16, congestion, temperature=0.7)
        fit = solve(jnp.asarray(quality + 5), jnp.asarray(load))
        assert float(fit.congestion) == pytest.approx(congestion, abs=1e-6)
        assert float(fit.residual) < 1e-8
        assert bool(fit.at_boundary) == (objective == "l1" and congestion == 0)


def test_kl_is_the_optimum_scipy_finds_and_may_be_negative():
    quality, load = random_instances(np.random.default_rng(2), 12, 16)
    fit = check_fit(fit_kl(jnp.asarray(quality), jnp.asarray(load)))
    for q, mu, congestion in zip(quality, load, np.asarray(fit.congestion), strict=True):
        best = minimize_scalar(
            lambda g, q=q, mu=mu: -(mu * np.log(response(q, mu, np.asarray(g)))).sum(),
            bracket=(-30, 30),
            tol=1e-12,
        )
        assert congestion == pytest.approx(best.x, abs=1e-4)
    assert (np.asarray(fit.congestion) < 0).any()


def test_kl_derivative_matches_finite_differences():
    quality, load = router_instances(np.random.default_rng(3), 1, 6)
    args = (jnp.asarray(quality[0]), jnp.asarray(load[0]), jnp.asarray(1.3))

    def congestion(q, raw, temperature):
        return fit_congestion(q, raw / raw.sum(), "kl", temperature).congestion

    check_grads(jax.jit(congestion), args, order=2, modes=["rev"], atol=1e-4, rtol=1e-4)


def test_kl_standard_error_is_the_spread_over_samples():
    """Independent dispatches from an exact equilibrium, quality known."""
    rng = np.random.default_rng(4)
    quality, load = equilibrium(rng, 16, 20.0)
    samples = rng.multinomial(20_000, load, size=600) / 20_000
    # The response is to the true load; the sample enters as the observed distribution only to first
    # order through sum(load^2), so compare with the sandwich of that condition.
    fit = fit_congestion(
        jnp.broadcast_to(jnp.asarray(quality), samples.shape), jnp.asarray(samples), "kl", 1.0, 2e4
    )
    assert np.isfinite(fit.standard_error).all()
    ratio = np.std(fit.congestion) / np.mean(fit.standard_error)
    # The load is also the regressor: d(q - gamma mu) moves with it, a factor 1 + gamma mu_i.
    assert 1 < ratio < 1 + 2 * 20.0 * load.max()


def test_bad_instances_are_reported_and_leave_the_batch_alone():
    rng = np.random.default_rng(5)
    quality, load = router_instances(rng, 6, 8)
    load[0] *= 8  # counts divided by tokens, not by tokens and top_k
    quality[1, 3] = np.nan
    load[2] = 1 / 8
    load[3, 0], load[3, 1] = -load[3, 0], load[3, 1] + 2 * load[3, 0]
    for objective in ("l1", "kl"):
        fit = fit_congestion(jnp.asarray(quality), jnp.asarray(load), objective)
        want = [FitStatus.BAD_INPUT, FitStatus.BAD_INPUT, FitStatus.UNIDENTIFIED]
        assert fit.status.tolist() == [*want, FitStatus.BAD_INPUT, 0, 0]
        assert np.isnan(fit.congestion[:4]).all() and np.isfinite(fit.congestion[4:]).all()
        alone = fit_congestion(jnp.asarray(quality[5]), jnp.asarray(load[5]), objective)
        assert float(alone.congestion) == pytest.approx(float(fit.congestion[5]), rel=1e-12)
        with pytest.raises(ValueError, match=r"instance \(0,\): BAD_INPUT.*sum to 1"):
            check_fit(fit)


def test_experts_without_load_are_allowed():
    load = jnp.asarray([0.5, 0.3, 0.2, 0.0])
    for objective in ("l1", "kl"):
        fit = check_fit(fit_congestion(jnp.asarray([0.4, 0.1, 0.0, -0.5]), load, objective))
        assert np.isfinite(float(fit.congestion))


def test_shapes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="one shape"):
        fit_congestion(jnp.zeros((2, 4)), jnp.ones(4) / 4)
    with pytest.raises(ValueError, match="not one of"):
        fit_congestion(jnp.zeros(4), jnp.ones(4) / 4, "l2")  # type: ignore[arg-type]
