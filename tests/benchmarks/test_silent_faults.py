"""The fault suite: every silent fault is named, with its layer, and its healthy twin is silent."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.studies.faulty_moe import FAULTY, Plan
from benchmarks.studies.silent_faults import EVERY, PLANS, expected, run
from mfgjax.monitor import Fault, Monitor
from mfgjax.monitor.journal import read_journal

torch.set_num_threads(1)
LATE = {5: 20, 14: 28, 16: 20}
"""Steps of those that are named later than after three sampled ones; the study has 40 for all."""


@pytest.mark.parametrize("number", PLANS)
def test_names_the_fault_and_the_layer(number):
    plan = PLANS[number]
    alarms = run(plan, steps=LATE.get(number, 10))
    named = {(alarm.fault, alarm.layer) for alarm in alarms}
    if plan.fault is Fault.AUX_POOLED:  # where the load of a layer tells it from the pooled one
        assert named and named <= expected(plan)
    else:
        assert named == expected(plan)
    assert all(alarm.step // EVERY < 20 for alarm in alarms)


@pytest.mark.parametrize(
    ("balance", "sequences", "steps"), [("aux", 8, 40), ("bias", 8, 40), ("bias", 48, 16)]
)
def test_the_healthy_twin_is_silent(balance, sequences, steps):
    assert run(Plan(balance, None, sequences), steps=steps) == []


@pytest.mark.parametrize("fault", [Fault.AUX_NOT_COMPUTED, Fault.AUX_WITHOUT_GRADIENT, None])
@pytest.mark.parametrize(
    "plan",
    [Plan(score="sigmoid"), Plan(score="sigmoid", renormalised=False), Plan(renormalised=False)],
)
def test_the_coefficient_in_force_is_read_whatever_the_score(plan, fault, tmp_path):
    """Sigmoid scores, and weights that the task's loss reaches through every expert's score."""
    plan = replace(plan, fault=fault)
    alarms = run(plan, steps=7, monitor=Monitor(tmp_path))
    assert {(alarm.fault, alarm.layer) for alarm in alarms} == expected(plan)
    found = np.array([record.aux_gradient for record in read_journal(tmp_path).records])
    want = np.full_like(found, 0.0 if fault is Fault.AUX_NOT_COMPUTED else 0.05)
    want[:, FAULTY] *= fault is None
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
