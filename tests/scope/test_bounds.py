"""Contraction rates against the Jacobian, bounds against solved games."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import softmax, wrightomega

from mfgjax.estimate.congestion.diagnostics import critical_congestion
from mfgjax.game import Game
from mfgjax.game.response import best_response
from mfgjax.report.reference import published_table
from mfgjax.scope import spectral_rate, worst_case_rate
from mfgjax.scope.bounds import (
    anti_concentration_bound,
    coupling_bound,
    coupling_bound_without_contraction,
    top_k_bound,
    top_k_bound_from_mass,
)
from mfgjax.scope.contraction import l1_rate, vacuous
from mfgjax.scope.truncation import measure_truncation

SLACK = 1e-9  # brentq stops at 2e-12


def test_rates_are_norms_of_the_jacobian():
    rng = np.random.default_rng(0)
    game = Game(rng.normal(size=6), 7.0, 0.8)

    @jax.jit
    def told(game, load):
        jacobian = jax.jacobian(lambda f: best_response(game, f))(load)
        response = best_response(game, load)
        numbers = game.congestion, game.temperature
        rates = l1_rate(response, *numbers), spectral_rate(response, *numbers)
        batch = spectral_rate(jnp.stack([response, load]), jnp.full(2, 7.0), game.temperature)
        return jacobian, (*rates, worst_case_rate(*numbers), batch[0])

    jacobian, rates = told(game, rng.dirichlet(np.ones(6)))
    by_columns, spectral, worst, in_batch = map(float, rates)
    columns = np.abs(jacobian).sum(0).max()
    assert by_columns == pytest.approx(columns, rel=1e-12)
    radius = np.abs(np.linalg.eigvals(jacobian)).max()
    assert spectral == pytest.approx(radius, rel=1e-9)
    assert radius <= columns <= worst
    assert in_batch == pytest.approx(radius, rel=1e-9)


def test_published_checkpoints_are_beyond_every_contraction_bound():
    published = jnp.asarray(published_table("table1_olmoe_dynamics")["gamma_eff"])
    assert bool(vacuous(worst_case_rate(published)).all())
    assert bool(jnp.isinf(top_k_bound(published, 8, 64)).all())
    assert bool(vacuous(jnp.asarray(jnp.nan)))


def equilibrium(quality, congestion, temperature=1.0):
    """`mu + (lambda/gamma) log mu = (q - nu)/gamma`, solved for nu by scipy: no code of ours."""
    unit = temperature / congestion

    def load(shift):
        return unit * wrightomega((quality - shift) / temperature - np.log(unit)).real

    high = quality.max() + temperature * np.log(len(quality))
    return load(brentq(lambda nu: load(nu).sum() - 1, quality.min() - congestion - 1, high))


def test_coupling_bounds_hold_over_games():
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(200):
        quality, shift = 2 * rng.normal(size=8), rng.uniform(0, 1) * rng.normal(size=8)
        congestion, temperature = 10 ** rng.uniform(-2, 2), rng.uniform(0.3, 2)
        still = equilibrium(quality, congestion, temperature)
        moved = equilibrium(quality - shift, congestion, temperature)
        rows.append((np.abs(still - moved).sum(), np.ptp(shift), congestion, temperature))
    distance, spread, congestion, temperature = np.array(rows).T
    ours = np.asarray(jax.jit(coupling_bound_without_contraction)(spread, temperature))
    papers = np.asarray(jax.jit(coupling_bound)(spread, congestion, temperature))
    assert (distance <= ours + SLACK).all()
    assert (distance <= papers + SLACK).all()
    assert (2 * ours <= papers + SLACK).all()
    finite = [np.isfinite(bound).mean() for bound in (ours, papers)]
    assert finite[0] > 2 * finite[1]  # says something twice as often


def test_no_expert_has_more_than_the_anti_concentration_bound():
    rng = np.random.default_rng(5)
    rows = []
    for _ in range(100):
        quality, congestion = 3 * rng.normal(size=8), 10 ** rng.uniform(-1, 2)
        rows.append((equilibrium(quality, congestion).max(), np.ptp(quality), congestion))
    rows.append((1, 2.0, 0.0))  # no congestion: the bound says nothing
    largest, spread, congestion = np.array(rows).T
    both = jax.jit(
        lambda s, c: (anti_concentration_bound(s, c, experts=8), critical_congestion(s, 8))
    )
    bound, critical = jax.device_get(both(spread, congestion))
    assert (largest <= bound + SLACK).all()
    assert ((bound < 1) == (congestion > critical)).all()
    assert bound[-1] == 1


def truncated_fixed_points(quality, congestion, top_k):
    """Every fixed point of the truncated response of one game, by trying every set of experts."""
    for chosen in combinations(range(len(quality)), top_k):
        load = np.zeros(len(quality))
        load[list(chosen)] = equilibrium(quality[list(chosen)], congestion)
        if set(np.argsort(congestion * load - quality)[:top_k]) == set(chosen):
            yield load


def test_top_k_bounds_hold_at_every_truncated_fixed_point():
    rng = np.random.default_rng(2)
    rows = []
    for congestion in (0.1, 0.3, 0.6, 1.2, 3.0, 10.0):
        for quality in 1.5 * rng.normal(size=(5, 6)):
            dense = equilibrium(quality, congestion)
            for load in truncated_fixed_points(quality, congestion, 4):
                response = softmax(quality - congestion * load)
                rows.append((np.abs(load - dense).sum(), response[load == 0].sum(), congestion))
    distance, dropped, congestion = np.array(rows).T
    assert len(rows) >= 10
    assert (dropped <= 1 - 4 / 6).all()
    assert (distance <= np.asarray(jax.jit(top_k_bound_from_mass)(dropped))).all()
    assert (distance <= np.asarray(jax.jit(lambda c: top_k_bound(c, 4, 6))(congestion))).all()


def test_measured_truncation_ends_at_a_fixed_point_that_enumeration_finds():
    quality = np.array([1.0, 0.8, 0.3, -0.2, -0.9, -1.4])
    dense = equilibrium(quality, 0.5)
    found = jax.jit(measure_truncation, static_argnums=3)(quality, 0.5, dense, 4)
    loads = list(truncated_fixed_points(quality, 0.5, 4))
    assert int(found.status) == 0 and len(loads) == 1
    assert float(found.distance) == pytest.approx(np.abs(loads[0] - dense).sum(), abs=1e-8)
    assert float(found.distance) <= float(found.bound_from_mass)
    assert float(found.distance) <= float(found.bound)
