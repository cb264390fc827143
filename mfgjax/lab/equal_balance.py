"""Loss at equal balance: an arm against the alpha sweep of the Switch loss, where both are as even.

Of each seed the losses of the sweep are joined by straight lines over MaxVio, and read off where the arm is. A
seed whose arm is more or less even than the whole sweep is left out: nothing is extrapolated.
"""

import numpy as np

from mfgjax.lab.differences import Interval, Results, arms_of, interval, values

SWEPT = "auxiliary"
FEWEST = 3
"""Doses that make a sweep."""


def loss_at_equal_balance(results: Results, arm: str) -> Interval:
    """Held-out loss of an arm less that of the sweep at the same MaxVio, paired by seed."""
    sweep = [
        name
        for name, found in arms_of(results).items()
        if found["rule"] == SWEPT and "alpha" in found["settings"]
    ]
    if len(sweep) < FEWEST:
        return interval([])
    level, loss = (
        values(results, arm, "training_max_violation"),
        values(results, arm, "held_out_loss"),
    )
    swept = [
        (values(results, name, "training_max_violation"), values(results, name, "held_out_loss"))
        for name in sweep
    ]
    found = []
    for seed in sorted(set(level) & set(loss)):
        points = sorted((v[seed], w[seed]) for v, w in swept if seed in v and seed in w)
        if len(points) < FEWEST:
            continue
        even, losses = np.array(points).T
        if even[0] <= level[seed] <= even[-1]:
            found.append(loss[seed] - float(np.interp(level[seed], even, losses)))
    return interval(found)
