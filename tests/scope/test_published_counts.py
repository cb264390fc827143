"""Opt-in: real dispatch counts of OLMoE-1B-7B (layers 0, 7, 15; base, SFT, DPO), no logits.

Needs `MFGJAX_OLMOE_COUNTS`, the path of an npz with `counts_<domain>` `[layer, expert]` and
`pairs_<domain>` `[pair, expert, expert]`, made from allenai/OLMoE's analysis output.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.metrics import measure_balance
from mfgjax.scope import spread_of_counts

PATH = os.environ.get("MFGJAX_OLMOE_COUNTS")
pytestmark = pytest.mark.skipif(
    PATH is None, reason="set MFGJAX_OLMOE_COUNTS to run on real counts"
)


@pytest.fixture(scope="module")
def counts():
    with np.load(str(PATH)) as stored:
        return {name: jnp.asarray(stored[name], float) for name in stored.files}


def test_tuning_barely_moves_the_balance_of_the_same_domain(counts):
    entropy = {
        name: measure_balance(counts[name]).entropy
        for name in ("counts_tulu", "counts_sft_tulu", "counts_dpo_tulu")
    }
    for name in ("counts_sft_tulu", "counts_dpo_tulu"):
        assert float(jnp.abs(entropy[name] - entropy["counts_tulu"]).max()) < 0.02


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
