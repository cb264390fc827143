"""Opt-in: real dispatch counts of OLMoE-1B-7B (layers 0, 7, 15; base, SFT, DPO), no logits.

Needs `MFGJAX_OLMOE_COUNTS`, the path of an npz with `counts_<domain>` `[layer, expert]` and
`pairs_<domain>` `[pair, expert, expert]`, made from allenai/OLMoE's analysis output.
"""

import os
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.metrics.per_layer import measure_balance
from mfgjax.scope.continuation import spread_of_counts

PATH = os.environ.get("MFGJAX_OLMOE_COUNTS")
pytestmark = pytest.mark.skipif(
    PATH is None, reason="set MFGJAX_OLMOE_COUNTS to run on real counts"
)


@pytest.fixture(scope="module")
def counts():
    with np.load(str(PATH)) as stored:
        return {name: jnp.asarray(stored[name], float) for name in stored.files}


def shares(counts):
    counts = np.asarray(counts)
    return counts / counts.sum(-1, keepdims=True)


def domains(counts):
    tuned = ("counts_sft_tulu", "counts_dpo_tulu")
    return [name for name in counts if name.startswith("counts_") and name not in tuned]


def test_real_loads_are_uneven_but_alive(counts):
    for name in domains(counts):
        metrics = measure_balance(counts[name])
        share = shares(counts[name])
        np.testing.assert_allclose(metrics.max_violation, 64 * share.max(-1) - 1)
        np.testing.assert_allclose(metrics.coefficient_of_variation, 64 * share.std(-1))
        assert not np.asarray(metrics.dead_experts).any()
        entropy, gini = np.asarray(metrics.entropy), np.asarray(metrics.gini)
        assert ((entropy > 0.82) & (entropy < 1)).all()
        assert (gini[1:] > gini[0]).all()  # layers 7 and 15 are less even than layer 0, everywhere


def test_tuning_evens_the_load_a_little_and_preferences_leave_it(counts):
    base, tuned, preferred = (
        counts[name] for name in ("counts_tulu", "counts_sft_tulu", "counts_dpo_tulu")
    )
    before, after, last = (measure_balance(c) for c in (base, tuned, preferred))
    # Same domain: SFT moves the load by .10 to .17 (L1), evens it; DPO moves it by .02 more.
    moved = np.abs(shares(base) - shares(tuned)).sum(-1)
    assert ((moved > 0.08) & (moved < 0.18)).all()
    assert (np.asarray(after.entropy) > np.asarray(before.entropy)).all()
    assert (np.asarray(after.gini) < np.asarray(before.gini)).all()
    assert (np.abs(shares(tuned) - shares(preferred)).sum(-1) < 0.03).all()
    assert float(jnp.abs(last.entropy - after.entropy).max()) < 1e-3
    # Domains differ by more than tuning does, at every layer.
    between = [
        np.abs(shares(counts[a]) - shares(counts[b])).sum(-1)
        for a, b in combinations(domains(counts), 2)
    ]
    assert (np.min(between, axis=0) > moved).all()


def test_layers_eight_apart_are_still_tied(counts):
    rng = np.random.default_rng(0)
    for name in [n for n in counts if n.startswith("pairs_")]:
        joint = counts[name]
        got = jax.vmap(spread_of_counts)(joint, joint.sum(-1))
        share = np.asarray(joint.sum(-2) / joint.sum((-2, -1))[:, None])
        sizes = np.asarray(joint.sum(-1)).astype(int)
        for pair in range(len(joint)):
            drawn = jnp.asarray(rng.multinomial(sizes[pair], share[pair]), float)
            null = spread_of_counts(drawn, drawn.sum(-1))
            assert float(got.average[pair]) > 5 * float(null.average)
            assert (
                0.7 < float(got.largest[pair]) < 1.25
            )  # the paper's adjacent layers: 0.58 to 1.73
        # Layers 7 and 15 are tied more closely than 0 and 7: .49 to .57 against .31 to .37.
        assert float(got.average[1]) > 1.3 * float(got.average[0])
