"""Every rule against its formula in plain NumPy, and the dual solvers against a linear programme."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.special import log_softmax, logsumexp, softmax

from mfgjax.lab.certificate import certify_balance
from mfgjax.lab.rule import Context, Layers
from mfgjax.lab.rules import RULES
from mfgjax.lab.rules.dual import kth_largest

TOKENS, M, K, LAYERS, MICRO, WIDTH = 48, 8, 2, 2, 3, 6
CLOSE = {"rtol": 2e-6, "atol": 2e-6}
"""float32 against float64 on numbers of order 1."""
DRAW = np.random.default_rng(0)
LOGITS = (1.5 * DRAW.standard_normal((LAYERS, TOKENS, M)) + DRAW.standard_normal(M)).astype("f4")
WEIGHT = (0.3 * DRAW.standard_normal((LAYERS, WIDTH, M))).astype("f4")
RECENT = DRAW.integers(0, 256, (TOKENS, 3)).astype("i4")


def context(training=True):
    key = jax.random.key(3)
    return Context(K, MICRO, training, jnp.asarray(RECENT), key, jnp.asarray(WEIGHT[0]))


def select(name, training=True, **state):
    rule = RULES[name]
    own = rule.state(M) | {k: jnp.asarray(v, jnp.float32) for k, v in state.items()}
    picked = rule.select(jnp.asarray(LOGITS[0]), own, context(training))
    return np.asarray(picked.choices), np.asarray(picked.weights)


def update(name, counts, **state):
    rule = RULES[name]
    own = rule.state(M) | {k: jnp.asarray(v, jnp.float32) for k, v in state.items()}
    found = rule.update(own, jnp.asarray(counts), jnp.asarray(LOGITS[0]), context())
    return {k: np.asarray(v) for k, v in found.items()}


def top(scores, k=K):
    return np.argsort(-scores, axis=-1, kind="stable")[..., :k]


def check_choice(name, scores, **given):
    """The top-K of `scores`, combined by the softmax of the chosen logits."""
    choices, weights = select(name, **given)
    want = top(scores)
    np.testing.assert_array_equal(np.sort(choices), np.sort(want))
    logits = np.take_along_axis(LOGITS[0].astype(float), choices, axis=-1)
    np.testing.assert_allclose(weights, softmax(logits, axis=-1), **CLOSE)


COUNTS = np.bincount(top(LOGITS[0]).ravel(), minlength=M).astype("i4")
LOAD = COUNTS / COUNTS.sum()
BIAS = np.linspace(-0.5, 0.4, M)
BIASED = ["sign", "proportional", "smebu", "leaky", "quantile", "hold-violation", "hold-congestion"]
PLAIN = [
    "none",
    "auxiliary",
    "auxiliary-micro",
    "auxiliary-pooled",
    "z-loss",
    "simbal",
    "hold-alpha",
]


@pytest.mark.parametrize("name", PLAIN)
def test_without_a_bias_the_logits_choose(name):
    check_choice(name, LOGITS[0])


@pytest.mark.parametrize("name", BIASED)
def test_a_bias_moves_the_choice_and_not_the_weights(name):
    assert (top(LOGITS[0]) != top(LOGITS[0] + BIAS)).any()
    check_choice(name, LOGITS[0] + BIAS, bias=BIAS)


def balance_formula(pooled, micro):
    """`sum_l M sum_i f P`, by loops over layers and micro-batches."""
    f, p = np.zeros((LAYERS, MICRO, M)), np.zeros((LAYERS, MICRO, M))
    part = TOKENS // MICRO
    for layer in range(LAYERS):
        for g in range(MICRO):
            own = LOGITS[layer, g * part : (g + 1) * part].astype(float)
            f[layer, g] = np.bincount(top(own).ravel(), minlength=M) / (part * K)
            p[layer, g] = softmax(own, axis=-1).mean(0)
    if not micro:
        f[:] = f.mean(1, keepdims=True)
    if pooled:
        f[:], p[:] = f.mean(0, keepdims=True), p.mean(0, keepdims=True)
    return M * (f * p).sum(-1).mean(1).sum()


LOSSES = {
    "auxiliary": (0.01, lambda: balance_formula(False, False)),
    "auxiliary-micro": (0.01, lambda: balance_formula(False, True)),
    "auxiliary-pooled": (0.01, lambda: balance_formula(True, False)),
    "auxiliary-pooled-micro": (0.01, lambda: balance_formula(True, True)),
    "capacity": (0.01, lambda: balance_formula(False, False)),
    "hold-alpha": (1e-3, lambda: balance_formula(False, False)),
    "z-loss": (1e-3, lambda: (logsumexp(LOGITS.astype(float), axis=-1) ** 2).mean(1).sum()),
    "simbal": (
        0.1,
        lambda: sum(np.abs(w.T @ w - np.eye(M)).sum() for w in WEIGHT.astype(float)),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    rule, (coefficient, formula) = RULES[name], LOSSES[name]
    own = jax.tree.map(lambda x: jnp.stack([x] * LAYERS), rule.state(M))
    choices = jnp.asarray(np.stack([top(z) for z in LOGITS]).astype("i4"))
    layers = Layers(jnp.asarray(LOGITS), choices, jnp.asarray(WEIGHT))
    assert rule.loss is not None
    found = float(rule.loss(layers, own, context()))
    np.testing.assert_allclose(found, coefficient * formula(), rtol=3e-6)
    slope = jax.grad(lambda z: rule.loss(layers._replace(logits=z), own, context()))(layers.logits)
    assert np.isfinite(slope).all()


def test_pooled_layers_hide_collapse():
    """Two layers, each with the other half of the experts dead: pooled, the loss is at its minimum."""
    half = np.full((TOKENS, M), -20.0)
    one, two = half.copy(), half.copy()
    one[:, : M // 2], two[:, M // 2 :] = 0, 0
    jitter = 1e-3 * np.random.default_rng(1).standard_normal((2, TOKENS, M))
    logits = (np.stack([one, two]) + jitter).astype("f4")
    choices = jnp.asarray(np.stack([top(z) for z in logits]).astype("i4"))
    layers = Layers(jnp.asarray(logits), choices, jnp.asarray(WEIGHT))
    found = {}
    for name in ("auxiliary", "auxiliary-pooled"):
        own = jax.tree.map(lambda x: jnp.stack([x] * LAYERS), RULES[name].state(M, alpha=1.0))
        found[name] = float(RULES[name].loss(layers, own, context())) / LAYERS
    assert found["auxiliary"] == pytest.approx(2, abs=0.02)
    assert found["auxiliary-pooled"] == pytest.approx(1, abs=0.02)


def test_updates_of_the_biases():
    lack = 1 - M * LOAD
    got = update("sign", COUNTS, bias=BIAS)["bias"]
    np.testing.assert_allclose(got, BIAS + 1e-3 * np.sign(COUNTS.mean() - COUNTS), **CLOSE)
    got = update("proportional", COUNTS, bias=BIAS)["bias"]
    np.testing.assert_allclose(got, BIAS + 1e-2 * lack, **CLOSE)
    velocity = np.linspace(-1e-3, 1e-3, M)
    got = update("smebu", COUNTS, bias=BIAS, velocity=velocity)
    wanted = 5e-4 * np.tanh(2 * lack)
    moved = 0.5 * velocity + 0.5 * (wanted - wanted.mean())
    np.testing.assert_allclose(got["velocity"], moved, **CLOSE)
    np.testing.assert_allclose(got["bias"], BIAS + moved, **CLOSE)
    average = np.full(M, 1 / M)
    got = update("leaky", COUNTS, bias=BIAS, average=average)
    average = 0.95 * average + 0.05 * LOAD
    np.testing.assert_allclose(got["average"], average, **CLOSE)
    np.testing.assert_allclose(
        got["bias"], 0.8 * BIAS + 0.2 * -20 * (average - 1 / M), rtol=1e-5, atol=1e-6
    )


def test_kth_largest_is_that_of_a_sort():
    values = np.concatenate([LOGITS[0], -LOGITS[0], np.zeros((5, M)), np.full((2, M), 1e30)])
    values = np.asarray(values, "f4")
    for k in (1, 2, 7, len(values)):
        want = np.sort(values, axis=0)[-k]
        np.testing.assert_array_equal(np.asarray(kth_largest(jnp.asarray(values), k)), want)


def quantile_formula(scores, bias):
    threshold = np.sort(scores + bias, axis=1)[:, -K - 1]
    place = TOKENS * K // M
    new = -np.sort(scores - threshold[:, None], axis=0)[-place - 1]
    return new - new.mean()


def bip_formula(scores, price, passes=4):
    place = TOKENS * K // M
    for _ in range(passes):
        token = np.maximum(np.sort(scores - price, axis=1)[:, -K - 1], 0)
        price = np.maximum(np.sort(scores - token[:, None], axis=0)[-place - 1], 0)
    return price


def test_solvers_are_their_formulas():
    got = update("quantile", COUNTS, bias=BIAS)["bias"]
    np.testing.assert_allclose(got, quantile_formula(LOGITS[0].astype(float), BIAS), **CLOSE)
    scores = softmax(LOGITS[0].astype(float), axis=-1)
    price = np.abs(BIAS) / 10
    want = bip_formula(scores, price)
    got = update("bip", COUNTS, bias=-price)["bias"]
    np.testing.assert_allclose(-got, want, **CLOSE)
    check_choice("bip", scores - want, bias=-price)
    check_choice("bip", scores - price, bias=-price, training=False)


def test_sinkhorn_choices_are_those_of_the_doubly_balanced_plan():
    plan = np.exp(log_softmax(LOGITS[0].astype(float), axis=-1))
    for _ in range(20):
        plan /= plan.sum(1, keepdims=True) * TOKENS
        plan /= plan.sum(0, keepdims=True) * M
    check_choice("sinkhorn", np.log(plan))
    check_choice("sinkhorn", LOGITS[0], training=False)


def dual_value(scores, bias):
    """Per token, places shared out evenly."""
    return np.sort(scores + bias, axis=1)[:, -K:].sum(1).mean() - K / M * bias.sum()


def test_duality_gap_holds_the_linear_programme():
    """Passes never raise the dual, and stop short of its minimum by what the certificate says at most.

    Alternating minimisation of a function with kinks may stand still above the minimum: here 3% of the way.
    """
    scores = LOGITS[0].astype(float)
    rows = np.zeros((TOKENS + M, TOKENS * M))
    for t in range(TOKENS):
        rows[t, t * M : (t + 1) * M] = 1
    for e in range(M):
        rows[TOKENS + e, e::M] = 1
    room = np.concatenate([np.full(TOKENS, K), np.full(M, TOKENS * K / M)])
    best = -linprog(-scores.ravel(), A_eq=rows, b_eq=room, bounds=(0, 1)).fun / TOKENS
    bias, gaps, duals = np.zeros(M), [], []
    for _ in range(12):
        found = certify_balance(scores, bias, K)
        assert found.primal <= best + 1e-9 <= found.dual + 2e-9
        assert found.dual == pytest.approx(dual_value(scores, bias))
        gaps.append(found.gap)
        duals.append(found.dual)
        bias = quantile_formula(scores, bias)
    assert (np.diff(duals) < 1e-9).all()
    assert gaps[0] > 0.5
    assert gaps[-1] < 0.05


def test_expert_choice_takes_each_experts_best_tokens():
    gates = softmax(LOGITS[0].astype(float), axis=-1)
    choices, weights = select("expert-choice")
    place = TOKENS * K // M
    want = np.zeros((TOKENS, M), bool)
    np.put_along_axis(want, np.argsort(-gates, axis=0)[:place], True, axis=0)
    np.testing.assert_array_equal(choices >= 0, want)
    np.testing.assert_allclose(weights, np.where(want, gates, 0), **CLOSE)
    threshold = np.full(M, 0.2)
    choices, _ = select("expert-threshold", threshold=threshold)
    np.testing.assert_array_equal(choices >= 0, gates >= 0.2)
    first = update("expert-threshold", COUNTS)
    last = np.sort(gates, axis=0)[-place]
    np.testing.assert_allclose(first["threshold"], last, **CLOSE)
    later = update("expert-choice", COUNTS, threshold=threshold, steps=99)
    np.testing.assert_allclose(later["threshold"], 0.95 * threshold + 0.05 * last, **CLOSE)


def test_capacity_drops_the_last_choices():
    choices, weights = select("capacity")
    room, used = int(np.ceil(TOKENS * K / M)), np.zeros(M, int)
    for rank in range(K):
        for token in range(TOKENS):
            expert = choices[token, rank]
            assert (weights[token, rank] > 0) == (used[expert] < room)
            used[expert] += 1
    assert (weights == 0).any()


def test_hash_and_random_do_not_read_the_logits():
    rule, own = RULES["hash"], {}
    same = [rule.select(jnp.asarray(z), own, context()).choices for z in LOGITS]
    np.testing.assert_array_equal(*same)
    choices = np.asarray(same[0])
    assert ((choices // (M // K)) == np.arange(K)).all()  # one of each group, so all different
    repeated = np.repeat(RECENT[:1], TOKENS, axis=0)
    again = rule.select(
        jnp.asarray(LOGITS[0]), own, context()._replace(recent=jnp.asarray(repeated))
    )
    assert (np.asarray(again.choices) == choices[0]).all()
    many = jnp.zeros((4000, M), jnp.float32)
    drawn = np.asarray(RULES["random"].select(many, own, context()).choices)
    assert (np.diff(np.sort(drawn), axis=-1) > 0).all()
    share = np.bincount(drawn.ravel(), minlength=M) / drawn.size
    np.testing.assert_allclose(share, 1 / M, atol=5 * np.sqrt(1 / M / drawn.size))
