"""A loop written by hand under the monitor: what it must not be misled by."""

import numpy as np
import pytest
import torch

from benchmarks.studies import faulty_moe as small
from mfgjax.monitor import Monitor
from mfgjax_extract.checks import RoutingError
from mfgjax_extract.loop import watch_training

BATCHES = 2


@pytest.fixture
def parts():
    torch.manual_seed(0)
    model = small.Model(small.Plan("aux"))
    return model, torch.optim.SGD(model.parameters(), lr=0.1), torch.Generator().manual_seed(0)


class Keep(Monitor):
    def __init__(self):
        super().__init__()
        self.records = []

    def observe(self, *args, **run):
        self.records.append(super().observe(*args, **run))
        return self.records[-1]


@pytest.mark.parametrize("told", [True, False])
def test_a_loss_scaler_and_a_step_that_it_skips(parts, told):
    """The gradients are those of the loss before it was scaled, if the scaler is handed over."""
    model, optimizer, draw = parts
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    settings = {"scaler": scaler} if told else {}
    tokens = []
    with Keep() as monitor, watch_training(model, optimizer, monitor, every=1, **settings):
        for step in range(4):
            tokens.append(0)
            for _ in range(BATCHES):
                batch = small.batch(draw, 4)
                tokens[-1] += int(batch["attention_mask"].sum())
                scaler.scale(model(**batch).loss / BATCHES).backward()
            if step == 1:
                model.head.weight.grad[0, 0] = torch.inf
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    first, joined, last = monitor.records
    assert [r.step for r in monitor.records] == [0, 1, 2]  # the skipped step is none
    assert [r.tokens[0] for r in monitor.records] == [tokens[0], tokens[1] + tokens[2], tokens[3]]
    if told:
        np.testing.assert_allclose([first.aux_gradient, last.aux_gradient], 0.05, rtol=1e-4)
        assert np.isnan(joined.aux_gradient).all()
    else:
        np.testing.assert_allclose(first.aux_gradient, 1024 * 0.05, rtol=1e-4)
    assert monitor.alarms == []


def test_probabilities_in_place_of_logits(parts):
    model, optimizer, draw = parts
    gate = model.layers[1].gate
    with torch.no_grad():
        gate.weight.copy_(gate.weight.softmax(0))
    gate.register_forward_pre_hook(lambda _module, args: (args[0].softmax(-1),))
    with Monitor() as monitor, watch_training(model, optimizer, monitor, every=1):
        model(**small.batch(draw, 4)).loss.backward()
        with pytest.raises(RoutingError, match=r"layers\.1\.gate: .*probabilities, not logits"):
            optimizer.step()
