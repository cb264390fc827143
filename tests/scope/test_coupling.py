"""Qualities by the expert a token comes from, against loops over tokens."""

import jax
import numpy as np

from mfgjax.scope.coupling import layered_quality

TOKENS, LAYERS, EXPERTS = 200, 3, 5


def test_group_means_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(TOKENS, LAYERS, EXPERTS))
    favourite = rng.integers(0, EXPERTS - 1, (TOKENS, LAYERS))  # nobody comes from the last expert
    favourite[0, 0] = EXPERTS - 1  # but for one token, fewer than asked for
    weight = rng.integers(0, 3, TOKENS)
    repeat = np.repeat(np.arange(TOKENS), weight)
    got, later = jax.jit(layered_quality)(logits, favourite, weight.astype(float), 2.5)
    np.testing.assert_allclose(got, logits[repeat].mean(0), rtol=1e-12)
    for layer in range(1, LAYERS):
        for previous in range(EXPERTS):
            group = repeat[favourite[repeat, layer - 1] == previous]
            group = group if len(group) >= 3 else repeat
            want = logits[group, layer].mean(0)
            np.testing.assert_allclose(later[layer - 1, previous], want, rtol=1e-10)
