"""`fit_congestion`: l1 is global and certified, kl is the convex optimum, failures are reported."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from mfgjax.equilibrium import Status
from mfgjax.estimate import check_fit, fit_congestion
from mfgjax.estimate.congestion.diagnostics import scale_sensitivity
from mfgjax.estimate.congestion.temperature import fit_temperature
from tests.derivatives import assert_derivatives

GRID_ERROR = 1e-6  # a certified l1 residual may exceed the dense grid's by this, no more
FLOAT32 = 5e-6  # rounding of an L1 residual of 64 terms, and its certificate

# Each shape compiles once: tests keep to few, and give every traced argument.
ROWS, EXPERTS = 6, 5


def fit_l1(quality, load):
    return fit_congestion(quality, load, "l1")


def fit_uncounted(quality, load, temperature=1.0):
    return fit_congestion(quality, load, "l1", temperature, count_minima=False)


def fit_kl(quality, load, temperature=1.0, dispatches=1e4):
    return fit_congestion(quality, load, "kl", temperature, dispatches)


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
@pytest.mark.parametrize(
    ("experts", "dtype", "slack"),
    [(8, np.float64, GRID_ERROR), (64, np.float32, FLOAT32)],
)
def test_l1_is_never_worse_than_a_dense_grid(make, experts, dtype, slack):
    """Three experts in float32: `test_kernels.py`."""
    quality, load = make(np.random.default_rng(0), 400, experts)
    reference = dense_grid(quality, load)
    fit = fit_uncounted(quality.astype(dtype), load.astype(dtype))
    assert fit.congestion.dtype == dtype
    converged = np.asarray(fit.converged)
    assert converged.mean() > 0.99
    congestion = np.asarray(fit.congestion, np.float64)
    reached = residual(quality, load, congestion)
    assert (reached - reference)[converged].max() <= slack
    np.testing.assert_allclose(fit.residual, reached, atol=FLOAT32)


def test_two_minima_of_the_counterexample_are_both_seen():
    quality, load = np.array([1.7, -3.2, 1.2]), np.array([0.40, 0.29, 0.31])
    fit = check_fit(fit_l1(*(np.tile(leaf, (ROWS, 1)) for leaf in (quality, load))))
    assert (fit.minima == 2).all()
    assert float(fit.residual[0]) == pytest.approx(0.562, abs=1e-3)
    assert float(fit.congestion[0]) == pytest.approx(9.9, abs=0.1)
    trapped = minimize_scalar(
        lambda g: residual(quality, load, np.asarray(g)), bounds=(50, 400), method="bounded"
    )
    assert trapped.x == pytest.approx(175, abs=2) and trapped.fun == pytest.approx(0.800, abs=1e-3)


def equilibrium(rng, experts, congestion, temperature=1.0):
    """An exact equilibrium: choose the load, and the quality that makes it one."""
    load = rng.dirichlet(np.full(experts, 20.0))
    return temperature * np.log(load) + congestion * load, load


@pytest.mark.parametrize(
    ("objective", "fit", "shape"),
    [("l1", fit_uncounted, (400, 8)), ("kl", fit_kl, (ROWS, EXPERTS))],
    ids=["l1", "kl"],
)
def test_exact_equilibrium_is_recovered(objective, fit, shape):
    rng = np.random.default_rng(1)
    congestion = np.resize([0.0, 3.0, 36.0], shape[0])
    made = [equilibrium(rng, shape[1], one, temperature=0.7) for one in congestion[:3]]
    quality, load = (np.resize(leaf, shape) for leaf in zip(*made, strict=True))
    found = fit(quality + 5, load, 0.7)
    np.testing.assert_allclose(found.congestion, congestion, atol=1e-6)
    assert (found.residual < 1e-8).all()
    np.testing.assert_array_equal(found.at_boundary, (objective == "l1") & (congestion == 0))


def test_kl_is_the_optimum_scipy_finds_and_may_be_negative():
    quality, load = random_instances(np.random.default_rng(2), 2 * ROWS, EXPERTS)
    halves = [check_fit(fit_kl(quality[i::2], load[i::2])).congestion for i in range(2)]
    found = np.stack(halves, 1).ravel()
    for q, mu, congestion in zip(quality, load, found, strict=True):
        best = minimize_scalar(
            lambda g, q=q, mu=mu: -(mu * np.log(response(q, mu, np.asarray(g)))).sum(),
            bracket=(-30, 30),
            tol=1e-12,
        )
        assert congestion == pytest.approx(best.x, abs=1e-4)
    assert (found < 0).any()


def test_kl_derivative_matches_finite_differences():
    quality, load = router_instances(np.random.default_rng(3), 1, 6)

    def congestion(at):
        q, raw, temperature = at[:6], at[6:12], at[12]
        return fit_congestion(q, raw / raw.sum(), "kl", temperature).congestion

    assert_derivatives(congestion, np.concatenate([quality[0], load[0], [1.3]]))


def test_scale_sensitivity_is_the_derivative_in_the_scale_of_the_logits():
    """Against central differences of the fit under q -> c q; and gamma + M only near an equilibrium."""
    quality, load = random_instances(np.random.default_rng(6), 5, 12)
    even = np.full(12, 1 / 12) * (1 + 0.01 * np.random.default_rng(7).standard_normal(12))
    even = even / even.sum()
    quality[0], load[0] = 0.7 * np.log(even) + 9 * even, even

    def both(scale):
        congestion = fit_congestion(scale * jnp.asarray(quality), load, "kl", 0.7).congestion
        return congestion, scale_sensitivity(congestion, scale * jnp.asarray(quality), load, 0.7)

    @jax.jit
    def with_slopes(scale):
        return jax.jvp(both, (scale,), (1.0,))

    step = 1e-4
    (congestion, sensitivity), slopes = with_slopes(1.0)
    above, below = with_slopes(1 + step)[0], with_slopes(1 - step)[0]
    for high, low, slope in zip(above, below, slopes, strict=True):
        np.testing.assert_allclose(slope, (high - low) / (2 * step), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(sensitivity, slopes[0], rtol=1e-7)
    near = congestion + 0.7 * 12
    np.testing.assert_allclose(sensitivity[0], near[0], rtol=1e-3)
    assert np.abs(sensitivity[1:] / near[1:] - 1).max() > 0.1
    # Nothing to differentiate: a uniform load, and one without a minimiser.
    flat = np.array([[0.25] * 4, [0.5, 0.5, 0, 0]])
    none = jax.jit(scale_sensitivity)(np.array([1.0, -np.inf]), np.zeros((2, 4)), flat)
    assert np.isnan(none).all()


@pytest.mark.parametrize("congestion", [20.0, 60.0])
def test_kl_standard_error_is_the_spread_over_samples(congestion):
    """Independent dispatches from an exact equilibrium, quality known: the load is the regressor too."""
    rng = np.random.default_rng(4)
    quality, load = equilibrium(rng, 16, congestion)
    samples = rng.multinomial(1_000_000, load, size=1000) / 1_000_000
    quality = np.broadcast_to(quality, samples.shape)
    fit = fit_kl(quality, samples, 1.0, 1e6)
    spread = float(np.std(fit.congestion))  # itself known to 2.2%
    assert float(np.mean(fit.standard_error)) == pytest.approx(spread, rel=0.07)
    assert abs(np.mean(fit.congestion) - congestion) < 0.2 * spread
    # Two percent of samples lie beyond 2.33 of their own standard errors on either side.
    z = (np.asarray(fit.congestion) - congestion) / np.asarray(fit.standard_error)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.05, abs=0.021)
    # Without an equilibrium: a load that the model misses by more than its noise.
    crooked = load * np.exp(0.3 * rng.standard_normal(16))
    samples = rng.multinomial(1_000_000, crooked / crooked.sum(), size=1000) / 1_000_000
    fit = fit_kl(quality, samples, 1.0, 1e6)
    assert float(np.mean(fit.standard_error)) == pytest.approx(
        float(np.std(fit.congestion)), rel=0.07
    )


@given(
    counts=st.lists(st.integers(0, 3), min_size=EXPERTS, max_size=EXPERTS).filter(
        lambda c: sum(c) > 0
    ),
    quality=st.lists(st.floats(-3, 3), min_size=EXPERTS, max_size=EXPERTS),
)
@settings(max_examples=40, deadline=None)
def test_kl_has_a_minimiser_unless_all_loads_above_zero_are_equal(counts, quality):
    """Counts of 0 to 3 have equal loads often. The limit and its divergence are written out here."""
    counts, quality = np.asarray(counts, float), np.asarray(quality)
    load, alive = counts / counts.sum(), counts > 0
    for dtype, slack in ((np.float64, 1e-9), (np.float32, 1e-5)):
        fits = fit_kl(*(np.tile(leaf, (ROWS, 1)).astype(dtype) for leaf in (quality, load)))
        fit = jax.tree.map(lambda leaf: np.asarray(leaf)[-1], fits)
        if alive.all() and np.ptp(counts) == 0:
            assert int(fit.status) == Status.UNIDENTIFIED
        elif np.ptp(counts[alive]) == 0:
            assert int(fit.status) == Status.UNBOUNDED and float(fit.congestion) == -np.inf
            total = np.log(np.exp(quality[alive]).sum())
            limit = (load[alive] * (np.log(load[alive]) - quality[alive] + total)).sum()
            assert float(fit.residual) == pytest.approx(limit, abs=slack)
        else:
            assert int(fit.status) == Status.CONVERGED and np.isfinite(float(fit.congestion))
            around = float(fit.congestion) + np.array([-1.0, 0, 1])[:, None]
            logits = quality - around * load
            total = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1))
            cross = total + logits.max(-1) - (load * logits).sum(-1)
            assert cross[1] <= cross[[0, 2]].min() + 1e-5


@pytest.mark.parametrize(("objective", "experts"), [("l1", 3), ("kl", EXPERTS)])
def test_bad_instances_are_reported_and_leave_the_batch_alone(objective, experts):
    solve = {"l1": fit_l1, "kl": fit_kl}[objective]
    quality, load = router_instances(np.random.default_rng(5), ROWS, experts)
    load[0] *= experts  # counts divided by tokens, not by tokens and top_k
    quality[1, 2] = np.nan
    load[2] = 1 / experts
    load[3, 0], load[3, 1] = -load[3, 0], load[3, 1] + 2 * load[3, 0]
    load[4, 0] = 0  # an expert without load is no fault
    load[4] /= load[4].sum()
    fit = solve(quality, load)
    want = [Status.BAD_INPUT, Status.BAD_INPUT, Status.UNIDENTIFIED]
    assert fit.status.tolist() == [*want, Status.BAD_INPUT, 0, 0]
    assert np.isnan(fit.congestion[:4]).all() and np.isfinite(fit.congestion[4:]).all()
    good = np.repeat([4, 5], 3)
    alone = check_fit(solve(quality[good], load[good]))
    np.testing.assert_allclose(alone.congestion, fit.congestion[good], rtol=1e-12)
    with pytest.raises(ValueError, match=r"instance \(0,\): BAD_INPUT.*sum to 1"):
        check_fit(fit)
    if objective == "l1":
        assert (fit.residual[4:] <= dense_grid(quality[4:], load[4:]) + GRID_ERROR).all()
    else:  # the qualities that the load expects, it gets
        answer = response(quality[4:], load[4:], np.asarray(fit.congestion[4:]))
        np.testing.assert_allclose(((answer - load[4:]) * load[4:]).sum(-1), 0, atol=1e-10)


def test_a_load_without_a_minimiser_leaves_the_batch_alone():
    """The first instance used to be -73.5 in float64 and -33.3 in float32, with a good status."""
    quality = np.tile([0.4, 0.1, 0.0, -0.5, -0.2], (ROWS, 1))
    load = np.tile([0.4, 0.25, 0.2, 0.1, 0.05], (ROWS, 1))
    quality[0], load[0] = [0.1, 0.2, 0.3, 0.0, 0.0], [0.5, 0.5, 0, 0, 0]

    def total(q, mu):
        return fit_kl(q, mu).congestion[1]

    for dtype in (np.float64, np.float32):
        fit = fit_kl(quality.astype(dtype), load.astype(dtype))
        assert fit.status.tolist() == [Status.UNBOUNDED, 0, 0, 0, 0, 0] and int(fit.minima[0]) == 0
        assert np.isnan(fit.standard_error[0]) and np.isfinite(fit.standard_error[1])
        with pytest.raises(ValueError, match=r"UNBOUNDED.*more is always better"):
            check_fit(fit)
    gradient = jax.jit(jax.grad(total, (0, 1)))(quality, load)
    assert all(np.isfinite(part[1]).all() for part in gradient)


def test_shapes_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="one shape"):
        fit_congestion(jnp.zeros((2, 4)), jnp.ones(4) / 4)
    with pytest.raises(ValueError, match="not one of"):
        fit_congestion(jnp.zeros(4), jnp.ones(4) / 4, "l2")  # type: ignore[arg-type]


def test_a_status_is_printed_as_a_word():
    quality, load = np.tile(np.arange(5.0), (ROWS, 1)), np.tile(np.arange(1, 6) / 15, (ROWS, 1))
    load[1] = 1 / EXPERTS
    fits = fit_kl(quality, load)
    assert f"status={ROWS - 1} CONVERGED, 1 UNIDENTIFIED" in repr(fits)
    one = jax.tree.map(lambda leaf: leaf[0], fits)
    assert "status=CONVERGED\n" in repr(one)
    assert "status=CONVERGED" in repr(fit_temperature(quality[0], load[0]))
    stopped = dataclasses.replace(one, status=jnp.asarray(Status.STEP_LIMIT))
    with pytest.raises(ValueError, match=r"STEP_LIMIT: .* fit in float64"):
        check_fit(stopped)  # it used to name two settings that no fit takes
    shown = []
    jax.make_jaxpr(lambda fit: shown.append(repr(fit)) or fit.status)(one)
    assert "CONVERGED" not in shown[0]
