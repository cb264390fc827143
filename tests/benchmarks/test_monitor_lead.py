"""Lead times of the monitor's study, on runs whose alarms and damage are set by hand."""

import numpy as np
import pytest

from benchmarks.studies.monitor.lead import IN_TIME, NEVER, damage, first_alarms, lead_rows
from benchmarks.studies.monitor.runs import BREAK, EVERY, KINDS

START = BREAK // EVERY


def test_first_alarms_are_of_any_layer_after_the_break_and_in_time():
    alarms = np.zeros((START + IN_TIME + 50, 4, 2), bool)
    alarms[START - 1, 0, 0] = True  # before
    alarms[START, 1, 1] = True
    alarms[[START + 9, START + 4], 2, [0, 1]] = True
    alarms[START + IN_TIME, 3] = True  # too late
    assert first_alarms(alarms).tolist() == [NEVER, 1, 5, NEVER]


def test_damage_is_more_dead_experts_or_a_higher_loss_than_before():
    run = {
        "count": np.ones((3, START + IN_TIME, 1, 4)),
        "loss": np.ones((3, START + IN_TIME)),
    }
    run["count"][:2, START - 3, 0, 1] = 0  # one dead expert is nothing new
    run["count"][:2, START + 2, 0, 2] = 0
    run["count"][1, START + 6, 0, :2] = 0
    run["loss"][2, START + 10] = 2
    assert damage(run).tolist() == [NEVER, 7, 11]


def test_leads_are_counted_where_one_of_the_two_came():
    kind = np.array([0, 1, 1, 1, 1, 1, 1, 1])
    own = np.array([1, NEVER, 3, 3, 3, 3, 3, NEVER])
    other = np.array([2, NEVER, 4, 5, 6, 7, NEVER, 1])
    rows = {row["kind"]: row for row in lead_rows(kind, own, {"other": other})}
    row = rows[KINDS[1]]
    assert row == rows["all"] | {"kind": KINDS[1]}  # the healthy run is left out
    assert (row["runs"], row["first"], row["median"]) == (6, 5, 2.5)
    # Least and largest of six hold the median but for 2 of 2^6 times: 0.969.
    assert row["interval"] == pytest.approx([-IN_TIME, NEVER - 3])
    assert rows[KINDS[2]]["median"] is None and rows[KINDS[2]]["runs"] == 0
