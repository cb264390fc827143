"""The fault suite: every silent fault is named, with its layer, and its healthy twin is silent."""

import pytest
import torch

from benchmarks.studies.silent_faults import EVERY, PLANS, Plan, expected, run
from mfgjax.monitor import Fault

torch.set_num_threads(1)


@pytest.mark.parametrize("number", PLANS)
def test_names_the_fault_and_the_layer(number):
    plan = PLANS[number]
    alarms = run(plan)
    named = {(alarm.fault, alarm.layer) for alarm in alarms}
    if plan.fault is Fault.AUX_POOLED:  # where the load of a layer tells it from the pooled one
        assert named and named <= expected(plan)
    else:
        assert named == expected(plan)
    assert all(alarm.step // EVERY < 20 for alarm in alarms)


@pytest.mark.parametrize(("balance", "sequences"), [("aux", 8), ("bias", 8), ("bias", 48)])
def test_the_healthy_twin_is_silent(balance, sequences):
    assert run(Plan(balance, None, sequences)) == []
