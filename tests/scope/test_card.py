"""The scope card says why."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.estimate import resample_weights, unit_weights
from mfgjax.scope import IN_SCOPE, MARGINAL, OUT, ScopeEstimates, estimate_scope, scope_card
from mfgjax.trace import read_sweep

NAMES = [field.name for field in dataclasses.fields(ScopeEstimates)]
GOOD = {
    "congestion": 20.0,
    "excess": 5.0,
    "safety_margin": 8.0,
    "equilibrium_distance": 0.1,
    "uniform_distance": 0.3,
}


def card_of(**changes):
    """A card of one layer whose resamples scatter by 0.1%, with some values given as ranges."""
    center = dict.fromkeys(NAMES, 0.5) | GOOD
    drawn = {n: np.linspace(0.999, 1.001, 50)[:, None] * v for n, v in center.items()}
    drawn |= {n: np.linspace(*ends, 50)[:, None] for n, ends in changes.items()}
    point = ScopeEstimates(**{n: jnp.asarray(v.mean(0)) for n, v in drawn.items()})
    return scope_card(
        point, ScopeEstimates(**{n: jnp.asarray(v) for n, v in drawn.items()}), ("l",)
    )


@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({}, IN_SCOPE, "all four"),
        ({"congestion": (0, 0)}, OUT, "on its boundary"),
        ({"congestion": (0, 1)}, MARGINAL, "may be zero"),
        ({"uniform_distance": (0.01, 0.05)}, OUT, "uniform load is nearer"),
        ({"uniform_distance": (0.05, 0.3)}, MARGINAL, "may not beat"),
        ({"safety_margin": (0.2, 0.5)}, MARGINAL, "below gamma_c"),
        ({"excess": (-9, -3)}, MARGINAL, "dispersion explains"),
        ({"excess": (np.nan, np.nan)}, MARGINAL, "not identified"),
    ],
)
def test_verdicts(changes, verdict, words):
    row = card_of(**changes).iloc[0]
    assert row.verdict == verdict
    assert words in row.reason


def test_estimates_of_a_sweep(sweep_folder):
    sweep = read_sweep(sweep_folder)
    last = jax.tree.map(lambda leaf: leaf[3], sweep.statistics)
    weights = jnp.concatenate([unit_weights(12), resample_weights(jax.random.key(0), 12, 30)])
    found = estimate_scope(last, weights, 4)
    point = jax.tree.map(lambda leaf: leaf[0], found)
    assert bool((found.spectral_rate <= found.l1_rate * (1 + 1e-5)).all())
    assert bool((found.l1_rate <= found.worst_case_rate * (1 + 1e-5)).all())
    card = scope_card(point, jax.tree.map(lambda leaf: leaf[1:], found), ("a", "b"))
    # Independent logits of dispersion 3 and no balancing: congestion, but none that is left over.
    assert (card.congestion_low > 5).all()
    assert set(card.verdict) <= {MARGINAL, OUT}
    assert card.reason.str.contains("dispersion").all()
    assert card.contraction_bounds_vacuous.all()


def test_card_needs_resamples_and_a_level():
    values = {n: jnp.zeros((0, 1)) for n in NAMES}
    point = ScopeEstimates(**{n: jnp.zeros(1) for n in NAMES})
    with pytest.raises(ValueError, match="at least one"):
        scope_card(point, ScopeEstimates(**values), ("l",))
    with pytest.raises(ValueError, match="confidence is 95"):
        scope_card(point, ScopeEstimates(**values), ("l",), confidence=95)
