"""Both kernels against a loop over tokens, their derivatives included, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.lab.experts import Weights, run_dense, run_padded

TOKENS, M, K, WIDTH, HIDDEN = 20, 6, 2, 5, 3
DRAW = np.random.default_rng(0)


def problem():
    matrices = [DRAW.standard_normal((M, WIDTH, HIDDEN)) for _ in range(2)]
    matrices.append(DRAW.standard_normal((M, HIDDEN, WIDTH)))
    tokens = DRAW.standard_normal((TOKENS, WIDTH))
    choices = np.stack([DRAW.permutation(M)[:K] for _ in range(TOKENS)]).astype("i4")
    return tokens, choices, DRAW.random((TOKENS, K)), Weights(*map(jnp.asarray, matrices))


def by_loop(tokens, choices, weights, experts, capacity=TOKENS):
    out, used, left = np.zeros(tokens.shape), np.zeros(M, int), 0
    for t in range(TOKENS):
        for k in range(K):
            e = choices[t, k]
            if e < 0 or weights[t, k] == 0:
                continue
            used[e] += 1
            if used[e] > capacity:
                left += 1
                continue
            gate = tokens[t] @ np.asarray(experts.gate[e])
            inner = gate / (1 + np.exp(-gate)) * (tokens[t] @ np.asarray(experts.up[e]))
            out[t] += weights[t, k] * (inner @ np.asarray(experts.down[e]))
    return out, left


@pytest.mark.parametrize("capacity", [TOKENS, 7])
def test_kernels_are_the_loop(capacity):
    tokens, choices, weights, experts = problem()
    choices[0, 0], weights[1, 1] = -1, 0
    args = jnp.asarray(tokens), jnp.asarray(choices), jnp.asarray(weights), experts
    want, left = by_loop(tokens, choices, weights, experts, capacity)
    found, overflow = run_padded(*args, capacity)
    np.testing.assert_allclose(found, want, atol=1e-12)
    assert int(overflow) == left
    assert (left > 0) == (capacity < TOKENS)
    if not left:
        np.testing.assert_allclose(run_dense(*args), want, atol=1e-12)


def test_derivatives_agree():
    tokens, choices, weights, experts = problem()
    args = jnp.asarray(tokens), jnp.asarray(weights), experts

    def total(run):
        return lambda x, w, e: (run(x, jnp.asarray(choices), w, e) ** 2).sum()

    dense = jax.grad(total(run_dense), (0, 1, 2))(*args)
    padded = jax.grad(total(lambda *a: run_padded(*a, TOKENS)[0]), (0, 1, 2))(*args)
    for one, other in zip(jax.tree.leaves(dense), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)
