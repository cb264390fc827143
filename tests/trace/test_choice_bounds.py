"""Bounds that choices set on the price survive in a file, merge, and are refused where damaged."""

import dataclasses

import numpy as np
import pytest

from mfgjax.trace import TraceError, read_trace, write_trace
from mfgjax.trace.statistics import statistics_of
from tests.trace.small_trace import EXPERTS, LAYERS, make_trace, rewrite


def bounded_file(tmp_path, blocks=2):
    path = tmp_path / "step10.statistics.safetensors"
    write_trace(path, statistics_of(make_trace(), choice_blocks=blocks))
    return path


def test_choice_bounds_round_trip_and_merge_by_maximum(tmp_path):
    got = read_trace(bounded_file(tmp_path)).choice_bound
    assert got.shape == (2, LAYERS, EXPERTS, EXPERTS) and got.dtype == np.float32
    one = statistics_of(make_trace(), choice_blocks=1).choice_bound
    np.testing.assert_array_equal(got.max(0), one[0])
    assert (one[0] <= 0).all()  # no bias: 0 keeps every bound


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: np.concatenate([b] * 3), "1 to 5 blocks"),
        (lambda b: b[:0], "1 to 5 blocks"),
        (lambda b: b[..., :-1], "has shape"),
        (lambda b: np.where(b > -1, np.nan, b), "holds nan"),
        (lambda b: -b, "holds inf"),
    ],
)
def test_damaged_choice_bounds_are_refused(tmp_path, change, message):
    path = bounded_file(tmp_path)
    rewrite(path, choice_bound=change(read_trace(path).choice_bound))
    with pytest.raises(TraceError, match=message):
        read_trace(path)


def test_bounds_of_a_rule_that_is_not_named_are_refused():
    biased = dataclasses.replace(
        make_trace(), selection_bias=np.ones((LAYERS, EXPERTS), np.float32)
    )
    with pytest.raises(TraceError, match="does not say what its selection bias is added to"):
        statistics_of(biased, choice_blocks=1)
