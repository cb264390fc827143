"""The bias comes back from choices, within bounds that always hold; what cannot be is refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from mfgjax.price import reveal_price
from mfgjax.price.bounds import close_bounds, reveal_from_bounds
from mfgjax.trace import TraceError
from mfgjax.trace.choice_bound import SelectionRule
from mfgjax.trace.statistics import statistics_of

from .conftest import EXPERTS, make_tokens

SLACK = 1e-7
"""Of float32 sums: it grows with the estimated bias, which differs a little between parts."""
WIDTH = 0.05
"""Of an interval at 2,000 tokens of spread 1; narrower than the price by ten."""


def difference(values):
    return values[:, None] - values[None]


@pytest.mark.parametrize("score", ["logits", "sigmoid", "softmax"])
def test_bias_comes_back_within_its_bounds(bias, score):
    scale = {"logits": 1, "sigmoid": 0.2, "softmax": 0.1}[score]
    found = reveal_price(make_tokens(scale * bias, score=score))
    true = difference(scale * bias)
    assert (found.difference_low[0] <= true + 1e-7).all()
    assert (true <= found.difference_high[0] + 1e-7).all()
    assert found.two_sided.all() and not found.conflict.any() and found.relaxation[0] == 0
    assert (np.abs(found.bias[0] - scale * bias) <= found.half_width[0] + 1e-7).all()
    assert found.half_width.max() < WIDTH * scale
    # The estimate keeps every bound.
    assert (difference(found.bias[0]) >= found.difference_low[0] - 1e-12).all()


def test_interval_is_the_tightest_that_the_choices_allow(bias):
    """Each bound against a linear programme over the tokens' own constraints."""
    trace = make_tokens(bias, tokens=12)
    exact = dataclasses.replace(trace, logits=trace.logits.astype(np.float64))
    rule = SelectionRule(unit=0.0)
    found = reveal_price(exact, rules=[rule])
    rows, limits = [], []
    for logits, choices in zip(exact.logits[:, 0], exact.choices[:, 0].astype(int), strict=True):
        for i in choices:
            for j in set(range(EXPERTS)) - set(choices.tolist()):
                row = np.zeros(EXPERTS)
                row[i], row[j] = -1, 1
                rows.append(row)
                limits.append(logits[i] - logits[j])
    for i, j in [(0, 1), (3, 6), (7, 2)]:
        aim = np.zeros(EXPERTS)
        aim[i], aim[j] = 1, -1
        ends = [
            linprog(s * aim, A_ub=rows, b_ub=limits, bounds=(None, None)).fun * s for s in (1, -1)
        ]
        got = found.difference_low[0, i, j], found.difference_high[0, i, j]
        np.testing.assert_allclose(got, ends, atol=1e-7)


def test_float32_bounds_hold_too(bias, priced):
    with jax.enable_x64(False):
        found = reveal_price(priced)
    wide = reveal_price(priced)
    assert (found.difference_low <= wide.difference_low + 1e-12).all()
    assert (found.difference_low >= wide.difference_low - 1e-5).all()


def test_float16_storage_is_allowed_for(bias, priced):
    """Without the allowance the rounded logits contradict each other; with it the truth is inside."""
    rough = dataclasses.replace(priced, logits=priced.logits.astype(np.float16))
    found = reveal_price(rough)
    assert not found.conflict.any()
    assert (found.difference_low[0] <= difference(bias) + 1e-7).all()
    exact = dataclasses.replace(rough, logits=rough.logits.astype(np.float64))
    assert reveal_price(exact).difference_low[0].max() > found.difference_low[0].max()


def test_a_router_without_a_price_holds_zero():
    trace = dataclasses.replace(make_tokens(np.zeros(EXPERTS)), selection_bias=None)
    found = reveal_price(trace)
    assert (found.difference_low <= 0).all() and (found.difference_high >= 0).all()


def test_a_constant_per_token_is_harmless_for_logits_and_refused_for_sigmoid(bias, priced):
    def centred(trace):
        logits = trace.logits - trace.logits.mean(-1, keepdims=True)
        return dataclasses.replace(trace, logits=logits)

    found, raw = reveal_price(centred(priced)), reveal_price(priced)
    np.testing.assert_allclose(found.bias, raw.bias, atol=1e-5)
    with pytest.raises(TraceError, match="mean 0"):
        reveal_price(centred(make_tokens(0.1 * bias, score="sigmoid")))


def test_dead_and_always_chosen_experts_are_left_one_sided(bias):
    pushed = bias.copy()
    pushed[2], pushed[5] = -50, 50
    found = reveal_price(make_tokens(pushed))
    assert found.two_sided[0].tolist() == [i not in (2, 5) for i in range(EXPERTS)]
    assert np.isnan(found.bias[0, [2, 5]]).all()
    assert np.isneginf(found.difference_low[0, 2]).sum() == EXPERTS - 1
    assert np.isposinf(found.difference_high[0, 5]).sum() == EXPERTS - 1
    rest = found.two_sided[0]
    error = found.bias[0, rest] - (bias[rest] - bias[rest].mean())
    assert (np.abs(error) <= found.half_width[0, rest] + 1e-7).all()


def test_noise_at_selection_is_a_conflict(bias, priced):
    rng = np.random.default_rng(77)
    noisy = priced.logits + 0.1 * rng.normal(size=priced.logits.shape)
    found = reveal_price(dataclasses.replace(priced, logits=noisy.astype(np.float32)))
    assert found.conflict.all() and np.isnan(found.difference_low).all()
    assert 0.05 < found.relaxation[0] < 1
    assert np.abs(found.bias[0] - bias).max() < 0.3  # still near, with no bound claimed
    assert np.isnan(found.half_width).all()


def test_statistics_with_bounds_say_the_same(priced):
    sums = statistics_of(priced, choice_blocks=4)
    whole, again = reveal_price(priced), reveal_price(sums)
    np.testing.assert_allclose(again.bias, whole.bias, atol=1e-6)
    part = reveal_price(sums, blocks=[0, 2])
    assert (part.difference_low <= again.difference_low + SLACK).all()
    assert (part.difference_low < again.difference_low).any()
    with pytest.raises(TraceError, match="no choice_bound"):
        reveal_price(statistics_of(priced))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True), "probabilities"),
        (lambda z: np.where(np.arange(len(z))[:, None, None] == 7, np.nan, z), "at token 7"),
    ],
)
def test_logits_that_are_none_are_refused(priced, change, message):
    bad = dataclasses.replace(priced, logits=change(priced.logits).astype(np.float32))
    with pytest.raises(TraceError, match=message):
        reveal_price(bad)


def test_an_unknown_rule_is_refused(priced):
    routing = priced.metadata.routing | {"selection_score": ["unknown"]}
    unknown = dataclasses.replace(
        priced, metadata=dataclasses.replace(priced.metadata, routing=routing)
    )
    with pytest.raises(TraceError, match="could not be seen"):
        reveal_price(unknown)
    with pytest.raises(TraceError, match="unknown score"):
        SelectionRule("noisy")


def test_closure_is_that_of_scipy_and_a_conflict_is_proven():
    from scipy.sparse.csgraph import floyd_warshall

    rng = np.random.default_rng(1)
    potential = rng.normal(size=(3, 6))
    bound = potential[:, :, None] - potential[:, None] - rng.exponential(size=(3, 6, 6))
    bound[0, 2] = -np.inf
    closed = np.asarray(close_bounds(jnp.asarray(bound)))
    for got, one in zip(closed, bound, strict=True):
        graph = np.where(np.isfinite(one), -one, np.inf)
        np.fill_diagonal(graph, 0)
        np.testing.assert_allclose(got, -floyd_warshall(graph), rtol=1e-12)
    bound[1, 0, 3], bound[1, 3, 0] = 1.0, -0.9
    again = close_bounds(jnp.asarray(bound))
    diagonal = np.diagonal(np.asarray(again), axis1=1, axis2=2).max(-1)
    assert (diagonal > 0).tolist() == [False, True, False]


def test_a_layer_without_a_rule_has_no_price():
    bound = np.full((2, 4, 4), -1.0)
    found = reveal_from_bounds(bound, [SelectionRule(), None], ["a", "b"])
    assert found.seen.tolist() == [True, False]
    assert not found.two_sided[1].any() and np.isnan(found.bias[1]).all()
