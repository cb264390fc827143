"""The slimming study says what failed: known differences come out as held or failed."""

import numpy as np
import pytest
import scipy.stats

from benchmarks.slimming import expectations, gap, interval, markdown, routing

NAMES = ["taylor", "fisher", "magnitude", "activation", "random", "drop by REAP"]


def seed(number, two_stages):
    """Losses of one seed, the same differences with a little noise."""
    noise = np.random.default_rng(number).normal(scale=1e-3, size=40).tolist()
    loss = {"teacher": 1.0} | {f"{n}, no tokens": 1.2 + noise.pop() for n in NAMES}
    loss |= {"random, no tokens": 1.6 + noise.pop(), "from scratch": 2.0, "taylor": 1.02}
    loss |= {f"taylor, {n}": 1.03 + noise.pop() for n in ("teacher only", "text only")}
    loss |= {"taylor in two stages": 1.02 + noise.pop(), "an eighth, one stage": 1.2}
    loss["an eighth, two stages"] = 1.2 + two_stages + noise.pop()
    layers = [{"agreement": 1.0, "load_l1": 0.0}, {"agreement": 0.9, "load_l1": 0.1 + noise.pop()}]
    names = ["slimmed, no tokens", "dropped, no tokens", "slimmed, distilled", "dropped, distilled"]
    cost = {"score_seconds": 1.3 + noise.pop(), "train_seconds": 1.0}
    return {"loss": loss, "shift": dict.fromkeys(names, layers), "cost": cost}


@pytest.mark.parametrize("two_stages", [-0.1, 0.1])
def test_an_expectation_is_held_or_failed_by_its_interval(two_stages):
    found = [seed(number, two_stages) for number in range(5)]
    rows = {row["what"]: row for row in expectations(found)}
    stages = rows["an eighth of the width: two stages less one"]
    assert stages["held"] == (two_stages < 0)
    assert rows["no tokens: gap of taylor less half that of random"]["held"]
    assert not rows["load L1, no tokens: slimmed less dropped"]["held"]  # no difference at all
    record = {
        "size": {"teacher": 1000, "half": 100, "eighth": 200},
        "seeds": 5,
        "rows": [{"name": "taylor", "gap": interval(found, gap("taylor"))}],
        "expectations": list(rows.values()),
        "routing": routing(found),
        "congestion": [],
        "environment": {"command": "c", "device": "d", "cores": 2, "versions": {}},
    }
    line = next(x for x in markdown(record).splitlines() if stages["what"] in x)
    assert ("**failed**" in line) == (two_stages > 0)


def test_the_interval_is_student_s():
    found = [seed(number, 0.0) for number in range(5)]
    values = [gap("random, no tokens")(one) for one in found]
    want = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose(interval(found, gap("random, no tokens"))[1:], want)
