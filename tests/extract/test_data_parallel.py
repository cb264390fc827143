"""Two ranks: distinct tokens are added up, replicas of the same tokens are counted once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("data_parallel.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks saw and counted itself, by the way it trained."""
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        cwd=SCRIPT.parents[2],
        env=os.environ | where | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]


def counts(rank, way, what):
    return np.array(rank[way][what])


def test_a_trainer(ranks):
    """Both batches of both ranks, in both layers; told by the first rank, and stopped on both."""
    own = sum(counts(rank, "trainer", "own") for rank in ranks)  # batch, layer, expert
    steps = own.reshape(-1, 2, *own.shape[1:]).sum(1)
    np.testing.assert_array_equal(counts(ranks[0], "trainer", "seen"), steps[[0, 3]])
    assert ranks[1]["trainer"]["seen"] == []
    assert [rank["trainer"]["steps"] for rank in ranks] == [4, 4]  # of six


def test_a_loop_with_distinct_tokens(ranks):
    own = sum(counts(rank, "distinct", "own") for rank in ranks)
    np.testing.assert_array_equal(counts(ranks[0], "distinct", "seen")[:, 0], own[::2])
    assert ranks[1]["distinct"]["seen"] == []


def test_a_loop_with_replicas(ranks):
    """Each rank is the first of its own group."""
    for rank in ranks:
        own = counts(rank, "replicas", "own")
        np.testing.assert_array_equal(counts(rank, "replicas", "seen")[:, 0], own[::2])
    assert ranks[0]["replicas"] == ranks[1]["replicas"]
