"""The traces of a folder make a sweep, in order, or are refused."""

import dataclasses

import jax.numpy as jnp
import pytest

from mfgjax.trace import TraceError, read_sweep, write_trace
from mfgjax.trace.statistics import statistics_of
from mfgjax.trace.sweep import read_token_traces
from tests.trace.small_trace import EXPERTS, LAYERS, TEXTS, make_trace


def test_a_sweep_is_ordered_by_step_and_prefers_statistics(tmp_path):
    for step in (100, 20, 3):
        write_trace(tmp_path / f"step{step}.tokens.safetensors", make_trace(step, seed=step))
    write_trace(tmp_path / "step20.statistics.safetensors", statistics_of(make_trace(20, seed=20)))
    sweep = read_sweep(tmp_path)
    assert sweep.labels == ["3", "20", "100"]
    assert sweep.statistics.logit_sum.shape == (3, TEXTS, LAYERS, EXPERTS)
    want = statistics_of(make_trace(20, seed=20)).statistics.logit_sum
    assert jnp.array_equal(sweep.statistics.logit_sum[1], want)


def test_a_sweep_of_two_models_is_refused(tmp_path):
    write_trace(tmp_path / "step1.tokens.safetensors", make_trace(1))
    other = make_trace(2)
    other = dataclasses.replace(other, metadata=dataclasses.replace(other.metadata, texts_hash="y"))
    write_trace(tmp_path / "step2.tokens.safetensors", other)
    with pytest.raises(TraceError, match=r"step2.*texts_hash.*folder of their own"):
        read_sweep(tmp_path)


def put(folder, name, kind="tokens", seed=0, **changes):
    trace = make_trace(seed=seed)
    trace = dataclasses.replace(trace, metadata=dataclasses.replace(trace.metadata, **changes))
    trace = trace if kind == "tokens" else statistics_of(trace)
    write_trace(folder / f"{name}.{kind}.safetensors", trace)


@pytest.mark.parametrize("kind", ["tokens", "statistics"])
def test_two_files_of_one_revision_are_refused(tmp_path, kind):
    """One of them would be dropped."""
    for name in ("a", "b"):
        put(tmp_path, name, kind, revision="main", step=None)
    with pytest.raises(TraceError, match=rf"b\.{kind}.*'main', as is a\.{kind}"):
        read_sweep(tmp_path)
    if kind == "tokens":
        with pytest.raises(TraceError, match="move one away"):
            read_token_traces(tmp_path)


def test_both_forms_of_a_checkpoint_are_of_the_same(tmp_path):
    put(tmp_path, "a", "statistics", revision="main")
    put(tmp_path, "a", "tokens", revision="main", texts_hash="y")
    with pytest.raises(TraceError, match=r"a\.tokens.*texts_hash is 'y', but 'x' in a\.statistics"):
        read_sweep(tmp_path)


def test_names_without_steps_sort_naturally_and_tell_no_order(tmp_path):
    for seed, name in enumerate(("run-100", "run-5", "run-10")):
        put(tmp_path, name, "statistics", seed, revision=name, step=None)
    sweep = read_sweep(tmp_path)
    assert sweep.labels == ["run-5", "run-10", "run-100"]
    assert not sweep.in_order


@pytest.mark.parametrize(
    ("steps", "known"),
    [((1, 2, 3), True), ((1, 2, None), True), ((1, None, None), False), ((1, 2, 2), False)],
)
def test_order_is_known_by_steps_with_one_unknown_at_the_end(tmp_path, steps, known):
    for seed, step in enumerate(steps):
        put(tmp_path, f"x{seed}", "statistics", seed, revision=f"x{seed}", step=step)
    assert read_sweep(tmp_path).in_order is known


def test_an_empty_folder_says_what_to_do(tmp_path):
    with pytest.raises(TraceError, match="mfgjax-extract"):
        read_sweep(tmp_path)
    with pytest.raises(TraceError, match="no such folder"):
        read_sweep(tmp_path / "nowhere")
