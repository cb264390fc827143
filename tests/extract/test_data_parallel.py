"""Two ranks: distinct tokens are added up, replicas of the same tokens are counted once."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("data_parallel.py")
ROOT = SCRIPT.parents[2]


@pytest.mark.parametrize("tokens", ["distinct", "replicas"])
def test_two_ranks(tokens, tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(tmp_path / "store"), tokens],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [rank.communicate(timeout=300) for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), ended
    found = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    own = np.array([f["own"] for f in found])[:, ::2]  # sampled steps
    first = np.array([np.array(counts)[0] for counts in found[0]["seen"]])
    if tokens == "distinct":
        np.testing.assert_array_equal(first, own.sum(0))
        assert found[1]["seen"] == []  # told by the first rank alone
    else:
        np.testing.assert_array_equal(own[0], own[1])
        np.testing.assert_array_equal(first, own[0])
        assert found[1]["seen"] == found[0]["seen"]  # each is the first of its own group
