"""The simulated rule, its mean field, hysteresis and smearing against each other and closed forms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from mfgjax.bifurcation import router_of_feedback, settle
from mfgjax.bifurcation.hysteresis import expected_jump, sweep_asymmetry
from mfgjax.bifurcation.mean_field import expected_load, integrate_scores
from mfgjax.bifurcation.response import NOISY_TOP1
from mfgjax.bifurcation.router import ReinforcedRouter
from mfgjax.bifurcation.simulate import Routing, simulate_router
from mfgjax.bifurcation.smearing import stationary_gap
from mfgjax.bifurcation.two_expert import fold_asymmetry, two_expert_states

states = jax.jit(two_expert_states, static_argnums=2)
stationary = jax.jit(stationary_gap, static_argnames="grid")
SEEDS, BATCH = 48, 4
NOISE = 0.01  # Monte Carlo tolerance of means over seeds and time


@partial(jax.jit, static_argnames="routing")
def _run(router, keys, token_noise, aux_loss_coef, routing):
    def one(key):
        return simulate_router(
            router,
            key,
            jnp.zeros(2),
            0.02,
            records=80,
            record_every=50,
            batch_size=BATCH,
            routing=routing,
            token_noise=token_noise,
            aux_loss_coef=aux_loss_coef,
        )

    return jax.vmap(one)(keys)


def run_many(router, *, routing=Routing.SOFTMAX, token_noise=0.0, aux_loss_coef=0.0):
    keys = jax.random.split(jax.random.key(0), SEEDS)
    return jax.device_get(_run(router, keys, token_noise, aux_loss_coef, routing))


def router_at(increment, decay=0.5, sharpness=2.0):
    return ReinforcedRouter(np.zeros(2), *map(jnp.asarray, (increment, decay, sharpness)))


def test_simulated_load_follows_the_mean_field_above_threshold():
    router = router_at(1.0)  # strength 2, in units other than those of the scaled form
    assert float(router.strength) == 2.0
    run = run_many(router)
    gap = 0.5 * router.sharpness * (run.score[:, 20:, 0] - run.score[:, 20:, 1])
    want = states(router.strength, 0.0)
    assert float(want.gap[2]) == pytest.approx(3.830 / 2, abs=1e-3)
    assert float(np.abs(gap).mean()) == pytest.approx(float(want.gap[2]), abs=NOISE)
    counted = np.abs(run.load[:, 20:, 0] - run.load[:, 20:, 1]).mean()
    assert float(counted) == pytest.approx(float(want.load_gap[2]), abs=NOISE)
    np.testing.assert_allclose(run.load.sum(-1), 1.0, rtol=0, atol=1e-12)


def test_smearing_at_threshold_follows_the_stationary_density():
    run = run_many(router_of_feedback(jnp.asarray(2.0), np.zeros(2)))
    gap = 0.5 * (run.score[:, 30:, 0] - run.score[:, 30:, 1])
    theory = stationary(1.0, 0.0, 0.02 / BATCH)
    assert float(np.sqrt((gap**2).mean())) == pytest.approx(float(theory.rms_gap), rel=0.08)


def test_noisy_top1_threshold():
    """The balanced state of two hard experts turns unstable at decay * noise * sqrt(pi / 2)."""
    decay, noise = 0.5, 0.7
    critical = decay * np.sqrt(2.0) * noise * np.sqrt(np.pi / 2.0)  # of the gap's noise

    @jax.jit
    def growth(increment):
        router = router_at(increment)
        rate = lambda x: (  # noqa: E731
            router.increment
            * jnp.diff(
                expected_load(
                    jnp.stack([-x, x]) / 2, router, routing=Routing.NOISY_TOP1, token_noise=noise
                )
            )[0]
            - router.decay * x
        )
        return jax.grad(rate)(0.0)

    assert float(growth(critical)) == pytest.approx(0, abs=1e-12)
    assert growth(1.01 * critical) > 0 > growth(0.99 * critical)
    router = router_at(1.5 * critical)
    run = run_many(router, routing=Routing.NOISY_TOP1, token_noise=noise)
    counted = np.abs(run.load[:, 50:, 0] - run.load[:, 50:, 1]).mean()
    want = states(1.5, 0.0, NOISY_TOP1).load_gap[2]
    assert float(counted) == pytest.approx(float(want), abs=NOISE)
    with pytest.raises(ValueError, match="2 experts"):
        expected_load(jnp.zeros(3), router, routing=Routing.NOISY_TOP1, token_noise=noise)


def test_auxiliary_loss_raises_the_threshold():
    coefficient = 0.3
    decay, sharpness = 0.5, 2.0
    without = 2.0 * decay / sharpness
    critical = without + coefficient * sharpness  # to first order in the load gap
    assert without == 0.5 and critical == pytest.approx(1.1)

    def imbalance(increment):
        run = run_many(router_at(increment), aux_loss_coef=coefficient)
        return float(np.abs(run.load[:, 20:, 0] - run.load[:, 20:, 1]).mean())

    # 0.8 is 1.6 times the threshold without the loss, 0.73 of that with it
    assert imbalance(0.8) < 0.15
    assert imbalance(1.5) > 0.8


def test_mean_field_agrees_with_scipy_and_settles_in_its_basin():
    router = router_of_feedback(jnp.asarray(3.2), jnp.asarray([0.05, 0.0, -0.05]))
    start = np.array([0.1, 0.9, 0.2])

    def field(_, score):
        logits = score + np.asarray(router.bias)
        load = np.exp(logits - logits.max())
        return 3.2 * load / load.sum() - score

    times = np.array([0.5, 3.0, 20.0])
    want = solve_ivp(field, (0, 20), start, t_eval=times, rtol=1e-10, atol=1e-10).y.T
    got = jax.jit(integrate_scores)(router, jnp.asarray(start), jnp.asarray(times))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    load = jax.jit(settle)(router, jnp.asarray(start))
    assert int(load.argmax()) == 1  # the head start outweighs the bias: hysteresis
    logits = router.bias + 3.2 * load
    np.testing.assert_allclose(jax.nn.softmax(logits), load, atol=1e-7)


def test_sweep_jumps_at_the_folds():
    strength, reach = jnp.asarray(1.5), jnp.asarray(0.4)
    sweep = jax.jit(lambda rate: sweep_asymmetry(strength, reach, rate, samples=2001))
    late = []
    fold = float(jax.jit(fold_asymmetry)(strength))
    for rate in (1e-3, 1e-4):
        loop = sweep(jnp.asarray(rate))
        late.append(float(loop.jump_up) - fold)
        assert float(loop.jump_down) == pytest.approx(-float(loop.jump_up), abs=1e-6)
        want = float(jax.jit(expected_jump)(strength, rate)) - fold
        assert late[-1] == pytest.approx(want, rel=0.12)  # next order in rate^(1/3)
    assert late[0] / late[1] == pytest.approx(10 ** (2 / 3), rel=0.05)
