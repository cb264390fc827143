"""The scope card says why."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from mfgjax.scope.card import IN_SCOPE, MARGINAL, OUT, scope_card
from mfgjax.scope.estimates import ScopeEstimates

NAMES = [field.name for field in dataclasses.fields(ScopeEstimates)]
GOOD = {
    "congestion": 20.0,
    "dispersion_excess": 5.0,
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
        ({"dispersion_excess": (-9, -3)}, MARGINAL, "dispersion explains"),
        ({"dispersion_excess": (np.nan, np.nan)}, MARGINAL, "not identified"),
    ],
)
def test_verdicts(changes, verdict, words):
    row = card_of(**changes).iloc[0]
    assert row.verdict == verdict
    assert words in row.reason


def test_card_needs_resamples_and_a_level():
    values = {n: jnp.zeros((0, 1)) for n in NAMES}
    point = ScopeEstimates(**{n: jnp.zeros(1) for n in NAMES})
    with pytest.raises(ValueError, match="at least one"):
        scope_card(point, ScopeEstimates(**values), ("l",))
    some = ScopeEstimates(**{n: jnp.zeros((2, 1)) for n in NAMES})
    with pytest.raises(ValueError, match="level is 95"):
        scope_card(point, some, ("l",), confidence=95)


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_intervals_are_of_the_kind_and_level_asked_and_known_ones_stand(level):
    rng = np.random.default_rng(0)
    without = {name: rng.normal(1, 0.01, (12, 1)) for name in NAMES}
    point = {name: values.mean(0) for name, values in without.items()}
    as_scope = [ScopeEstimates(**values) for values in (point, without)]
    known = {"dispersion_excess": np.array([[2.0, 3.0]])}
    card = scope_card(*as_scope, ("l",), confidence=level, kind="jackknife", known=known)
    row = card.iloc[0]
    assert (row.dispersion_excess_low, row.dispersion_excess_high) == (2, 3)
    values = without["max_load"][:, 0]
    reach = stats.t.ppf(0.5 + level / 2, 11) * np.sqrt(
        11 / 12 * ((values - values.mean()) ** 2).sum()
    )
    assert row.max_load_high - row.max_load_low == pytest.approx(2 * reach)
    gain = (without["uniform_distance"] - without["equilibrium_distance"])[:, 0]
    assert row.gain == pytest.approx(gain.mean())
