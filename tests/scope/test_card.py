"""The scope card says why."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.scope import IN_SCOPE, MARGINAL, OUT, ScopeEstimates, scope_card

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


def test_card_needs_resamples_and_a_level():
    values = {n: jnp.zeros((0, 1)) for n in NAMES}
    point = ScopeEstimates(**{n: jnp.zeros(1) for n in NAMES})
    with pytest.raises(ValueError, match="at least one"):
        scope_card(point, ScopeEstimates(**values), ("l",))
    with pytest.raises(ValueError, match="confidence is 95"):
        scope_card(point, ScopeEstimates(**values), ("l",), confidence=95)
