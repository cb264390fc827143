"""A run in flax and optax: its records are an offline recount in NumPy, and a fault is named where it is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from mfgjax.lab.model import Model, Price, Shape
from mfgjax.lab.rules import RULES
from mfgjax.monitor import Fault, Monitor, routing_sums
from mfgjax.monitor.journal import read_journal
from mfgjax.monitor.measure import measure
from mfgjax.monitor.record import PER_LAYER
from mfgjax.monitor.sums import step_sums

SHAPE = Shape(experts=6, top_k=2, layers=2, width=16, hidden=8)
STEPS, EVERY, FAULTY = 19, 2, 1
BATCH, LENGTH = 8, 32
NAMES = [f"blocks.{i}.router" for i in range(SHAPE.layers)]
RULE = RULES["proportional"]
OPTIMIZER = optax.adam(3e-3)


@pytest.fixture(scope="module")
def programs():
    """The training step with its two lines for the monitor, and the forward alone."""
    graph = nnx.split(Model(SHAPE, RULE, {}, nnx.Rngs(0)), nnx.Param, Price)[0]
    key = jax.random.key(0)

    def routed(params, price, windows):
        return nnx.merge(graph, params, price)(windows[None, :, :-1], key, True)[:2]

    @jax.jit
    def step(params, moments, price, windows, step_of_bias):
        def loss_of(params):
            logits, found = routed(params, price, windows)
            labels = windows[None, :, 1:]
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean(), found

        slopes, found = jax.grad(loss_of, has_aux=True)(params)
        mask = windows[:, :-1].ravel() > 0
        bias = nnx.merge(graph, params, price).price["bias"][...]
        sums = {
            name: routing_sums(found.logits[i], found.choices[i], mask, bias=bias[i])
            for i, name in enumerate(NAMES)
        }
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            updates, moments = OPTIMIZER.update(slopes, moments)
        count = jnp.stack([sums[name]["count"] for name in NAMES]).astype(jnp.float32)
        violation = 1 - count / count.mean(-1, keepdims=True)
        model = nnx.merge(graph, optax.apply_updates(params, updates), price)
        model.price["bias"][...] = bias + step_of_bias[:, None] * violation
        _, params, price = nnx.split(model, nnx.Param, Price)
        return params, moments, price, sums

    forward = jax.jit(lambda *state: routed(*state)[1].logits)
    return step, forward


def trained(programs, monitor, fault, recount=None):
    step, forward = programs
    _, params, price = nnx.split(Model(SHAPE, RULE, {}, nnx.Rngs(0)), nnx.Param, Price)
    moments = OPTIMIZER.init(params)
    speed = np.full(SHAPE.layers, 0.02, np.float32)
    speed[FAULTY] *= not fault
    draw = np.random.default_rng(0)
    for number in range(STEPS):
        windows = draw.integers(1, 60, (BATCH, LENGTH + 1))
        windows[:2, -9:] = 0  # padding
        if recount is not None and number % EVERY == 0:
            bias = np.asarray(price["price"]["bias"][...], np.float64)
            recount[number] = bias, np.asarray(forward(params, price, windows)), windows
        params, moments, price, sums = step(params, moments, price, windows, speed)
        if number % EVERY == 0:
            monitor.observe(number, sums)
    return monitor


def counted_offline(bias, logits, windows):
    """The sums of one layer, from logits of every token."""
    z = logits[windows[:, :-1].ravel() > 0].astype(np.float64)
    chosen = np.argsort(-(z + bias), axis=1)[:, : SHAPE.top_k]
    log_sum = np.logaddexp.reduce(z, axis=1)
    return {
        "tokens": len(z),
        "top_k": SHAPE.top_k,
        "count": np.bincount(chosen.ravel(), minlength=SHAPE.experts),
        "logit_sum": z.sum(0),
        "centred_square_sum": ((z - z.mean(1, keepdims=True)) ** 2).sum(),
        "lse_square_sum": (log_sum**2).sum(),
        "bias": bias,
    }


def test_records_are_those_of_an_offline_recount(programs, tmp_path):
    kept = {}
    with Monitor(tmp_path) as monitor:
        trained(programs, monitor, fault=False, recount=kept)
    assert monitor.alarms == []
    records = read_journal(tmp_path).records
    assert [r.step for r in records] == list(kept) == list(range(0, STEPS, EVERY))
    for record in records:
        bias, logits, windows = kept[record.step]
        own = zip(NAMES, bias, logits, strict=True)
        want = measure(
            step_sums(record.step, {n: counted_offline(b, z, windows) for n, b, z in own})
        )
        assert record.layers == tuple(NAMES)
        for got, exact in zip(record.count, want.count, strict=True):
            np.testing.assert_array_equal(got, exact)
        for name in PER_LAYER:
            np.testing.assert_allclose(
                getattr(record, name), getattr(want, name), rtol=1e-5, atol=1e-7, err_msg=name
            )
    assert not np.array_equal(records[0].z, records[-1].z)  # it learnt


def test_a_bias_that_nothing_updates_is_named_where_it_is(programs):
    monitor = trained(programs, Monitor(), fault=True)
    assert [(a.fault, a.layer) for a in monitor.alarms] == [
        (Fault.BIAS_NEVER_UPDATED, NAMES[FAULTY])
    ]
