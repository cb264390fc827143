"""The static comparison on a router whose two token types and congestion are known."""

import dataclasses
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.comparison import compare_static, models
from mfgjax.comparison.refit import refit_static
from mfgjax.equilibrium import solve_equilibrium
from mfgjax.game import Game
from mfgjax.metrics.per_layer import layer_groups
from mfgjax.report.sections.architectures import cross_architecture_table
from mfgjax.report.sections.held_out import (
    group_errors,
    layer_errors,
    paired_differences,
    refitted_differences,
    standard_pairs,
)
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace

EXPERTS, TEXTS, TOKENS, CONGESTION = 16, 30, 1600, 12.0
WEIGHT = np.array([0.6, 0.4])


@pytest.fixture(scope="module")
def trace():
    """Two layers; each token draws its expert from the K-type equilibrium at congestion 12.

    Types favour different experts strongly, so that a single quality vector cannot tell them apart.
    """
    rng = np.random.default_rng(0)
    quality = 3 * rng.standard_normal((2, EXPERTS))
    game = Game(jnp.asarray(quality), CONGESTION, weight=jnp.asarray(WEIGHT))
    routes = np.asarray(solve_equilibrium(game).type_load)
    count = TEXTS * TOKENS
    kind = rng.choice(2, (count, 2), p=WEIGHT)
    logits = quality[kind] + 0.1 * rng.standard_normal((count, 2, EXPERTS))
    threshold = routes.cumsum(-1)[kind]
    choices = (rng.random((count, 2, 1, 1)) > threshold[:, :, None, :]).sum(-1)
    return drawn_trace(logits, choices, TEXTS, layers=("a", "b"))


@pytest.fixture(scope="module")
def comparison(trace):
    return compare_static(trace, types=(2,), resamples=200, seed=1)


def test_the_true_model_is_recovered_and_wins(comparison):
    assert sum(comparison.tokens) == TEXTS * TOKENS
    # Noise of 16,000 dispatches pulls the estimate towards zero.
    np.testing.assert_allclose(comparison.congestion["multi-type 2"], CONGESTION, rtol=0.25)
    errors = layer_errors(comparison).set_index("layer")
    truth = errors["multi-type 2"]
    assert (truth < 0.06).all()  # sampling noise of 16,000 held-out tokens
    for rival in ("uniform", "MFG", "temperature softmax", "mixture softmax"):
        assert (truth < 0.5 * errors[rival]).all(), rival


def test_paired_intervals_hold_the_difference_and_name_the_winner(comparison):
    frame = paired_differences(comparison, standard_pairs(comparison))
    row = frame.query("model == 'multi-type 2' and reference == 'MFG' and layers == 'all'").iloc[0]
    assert row.low <= row.difference <= row.high < 0
    assert row.layers_won == row.layers_compared == 2
    with pytest.raises(ValueError, match="no model 'magic'"):
        paired_differences(comparison, [("MFG", "magic")])


def test_refits_hold_the_luck_of_the_fit(trace, comparison):
    # Every sixth token: refits are about texts, of which all are there.
    rows = np.arange(0, len(trace.text), 6)
    small = TokenTrace(trace.metadata, trace.logits[rows], trace.choices[rows], trace.text[rows])
    own = compare_static(small, types=(2,), resamples=200, seed=1)
    refits = refit_static(small, types=(2,), refits=12, splits=4, seed=1)
    assert refits.resampled.shape == (12, len(refits.models), 2)
    assert refits.splits.shape == (4, len(refits.models), 2)
    assert "mixture softmax" not in refits.models
    pair = [("multi-type 2", "MFG")]
    again = refitted_differences(own, refits, pair).query("layers == 'all'").iloc[0]
    fixed = paired_differences(own, pair).query("layers == 'all'").iloc[0]
    assert again.difference == pytest.approx(fixed.difference)
    assert again.low < again.difference < again.high < 0
    assert again.splits_won == again.splits == 4
    assert again.high - again.low > 0.7 * (fixed.high - fixed.low)  # it holds the evaluation's too
    with pytest.raises(ValueError, match="no refitted model 'sinkhorn'"):
        refitted_differences(own, refits, [("sinkhorn", "MFG")])
    with pytest.raises(ValueError, match="refits is 1"):
        refit_static(small, refits=1)


def test_a_fit_without_a_finite_minimiser_is_no_failure(monkeypatch):
    # As seen in float32 on a cluster of one token: congestion 1.6e32, which no solver takes.
    unbounded = SimpleNamespace(congestion=np.full(6, 1.6e32), status=np.full(6, 4))
    monkeypatch.setattr(models, "fit_rows", lambda *_: unbounded)
    quality = np.random.default_rng(0).standard_normal((6, EXPERTS))
    _, predicted = models.single_type_loads(quality, quality)
    np.testing.assert_allclose(predicted, 1 / EXPERTS, atol=1e-3)


def test_group_table_averages_the_layer_table(comparison):
    groups = group_errors(comparison).set_index("model")
    errors = layer_errors(comparison)
    for model in comparison.models:
        assert groups.l1_all[model] == pytest.approx(errors[model].mean())
        assert groups.l1_late[model] == pytest.approx(errors[model][1])
    assert groups.wins.sum() == 2
    assert np.isfinite(layer_errors(comparison, "kl")["MFG"]).all()
    assert [len(g) for g in layer_groups(5).values()] == [5, 3, 2]


def test_too_few_tokens_for_the_types_are_refused(trace):
    rows = np.flatnonzero((trace.text < 3) & (np.arange(len(trace.text)) % TOKENS < 2))
    small = TokenTrace(trace.metadata, trace.logits[rows], trace.choices[rows], trace.text[rows])
    with pytest.raises(ValueError, match="cannot hold 8 types"):
        compare_static(small, resamples=0)


def test_architectures_in_order_of_density_with_a_verdict_each(trace, comparison):
    sparse = dataclasses.replace(trace.metadata, experts=64, model="sparse")
    table = cross_architecture_table([(comparison, sparse), (comparison, trace.metadata)])
    assert table.frame.model.tolist() == ["simulated", "sparse"]
    row = table.frame.iloc[0]
    assert row.k_over_m == 1 / EXPERTS
    errors = layer_errors(comparison)
    assert row.l1_mfg == pytest.approx(errors.MFG.mean())
    below = row.difference_high < 0
    assert (row.mfg_wins == "yes") == below


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_architectures_are_judged_at_the_level_asked(trace, comparison, level):
    row = cross_architecture_table([(comparison, trace.metadata)], level).frame.iloc[0]
    at = [comparison.models.index(name) for name in ("MFG", "uniform")]
    drawn = (comparison.resampled[:, at[0]] - comparison.resampled[:, at[1]]).mean(-1)
    want = np.quantile(drawn, [0.5 - level / 2, 0.5 + level / 2])
    np.testing.assert_allclose([row.difference_low, row.difference_high], want)
    assert row.difference == pytest.approx(row.l1_mfg - row.l1_uniform)
