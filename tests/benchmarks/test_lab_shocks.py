"""The study of shocks in training: when a run counts as back, and what a new expert is."""

import jax
import numpy as np
import pytest

from benchmarks.studies.lab_shocks import (
    AFTER,
    CLOSE,
    EVERY,
    PLAN,
    SHAPE,
    back,
    with_new_experts,
)
from mfgjax.lab.rules import RULES
from mfgjax.lab.train import Trainer


@pytest.mark.parametrize(
    ("far", "steps"), [([], 0), ([0], EVERY), ([0, 1, 2], 3 * EVERY), ([7], 8 * EVERY)]
)
def test_back_is_from_where_it_stays(far, steps):
    violation = np.full(AFTER // EVERY + 1, 0.3 + 0.9 * CLOSE)
    violation[far] = 0.3 + 1.1 * CLOSE
    assert back(violation, 0.3) == steps
    violation[-1] = 0.3 + 1.1 * CLOSE
    assert back(violation, 0.3) is None


def test_a_new_expert_is_new_and_nothing_else_is():
    trainer = Trainer(SHAPE, PLAN, RULES["sign"])
    state = trainer.start([(0, {}), (1, {})])
    state = state._replace(moments=jax.tree.map(lambda x: x + 1, state.moments))
    new = with_new_experts(state, np.array([[3, 5], [0, 15]]))
    for before, after in zip(jax.tree.leaves(state.price), jax.tree.leaves(new.price), strict=True):
        np.testing.assert_array_equal(before, after)
    pairs = zip(
        jax.tree_util.tree_leaves_with_path((state.params, state.moments)),
        jax.tree.leaves((new.params, new.moments)),
        strict=True,
    )
    seen = 0
    for (path, before), after in pairs:
        name, before, after = jax.tree_util.keystr(path), np.asarray(before), np.asarray(after)
        changed = before != after
        if "'router'" in name:
            changed = changed.swapaxes(1, 2)
        if not any(f"'{part}'" in name for part in ("router", "gate", "up", "down")):
            assert not changed.any(), name
            continue
        seen += 1
        layer = int("[1]['" in name.split("'blocks'")[1])
        for run, expert in enumerate(([3, 5], [0, 15])[run][layer] for run in range(2)):
            assert changed[run, expert].all(), name
            assert not np.delete(changed[run], expert, axis=0).any(), name
            if name.startswith("[1]"):  # moments
                values = after.swapaxes(1, 2) if "'router'" in name else after
                assert not values[run, expert].any()
    assert seen == 3 * 2 * 4  # weights and both moments, two layers, four arrays
