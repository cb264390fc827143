"""torch to JAX by DLPack: same memory, safe lifetimes, no silent 64-bit cut; streamed statistics."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from mfgjax.trace.choice_bound import SelectionRule
from mfgjax.trace.handover import from_tensor
from mfgjax.trace.stream import StatisticsStream
from mfgjax_extract import tap_routers
from mfgjax_extract.choice_bound import choice_bound
from mfgjax_extract.selection import Selection
from mfgjax_extract.statistics import sum_by_text

from .tiny_models import tiny_inputs, tiny_model

SUM_RTOL = 1e-5
"""float32 sums of up to a dozen tokens against float64."""


@pytest.fixture
def x64_off():
    with jax.enable_x64(False):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int32])
def test_memory_is_shared(dtype, x64_off):
    tensor = torch.arange(24).reshape(4, 6).to(dtype)
    array = from_tensor(tensor)
    assert array.unsafe_buffer_pointer() == tensor.data_ptr()
    assert str(array.dtype) == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(np.asarray(array, np.float32), tensor.float().numpy())


def test_tapped_tensors_are_shared(x64_off):
    model = tiny_model("olmoe")
    with torch.inference_mode(), tap_routers(model) as tap:
        model(**tiny_inputs(model))
    for layer in tap.latest.layers:
        assert from_tensor(layer.logits).unsafe_buffer_pointer() == layer.logits.data_ptr()
        assert from_tensor(layer.choices).unsafe_buffer_pointer() == layer.choices.data_ptr()


def test_memory_outlives_the_tensor(x64_off):
    tensor = torch.full((512, 64), 3.0)
    array = from_tensor(tensor)
    del tensor
    gc.collect()
    [torch.full((512, 64), -1.0) for _ in range(20)]  # would take the memory if it were free
    assert float(array.min()) == 3.0


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_64_bits_are_not_cut_silently(dtype, x64_off):
    with pytest.raises(ValueError, match="cut to 32 bits"):
        from_tensor(torch.ones(4, dtype=dtype))


def test_64_bits_pass_with_x64():
    tensor = torch.tensor([2**31 + 5])
    assert int(from_tensor(tensor)[0]) == 2**31 + 5


def test_gradient_is_refused():
    with pytest.raises(ValueError, match="detach"):
        from_tensor(torch.ones(2, requires_grad=True))


@pytest.mark.parametrize("make", [lambda t: t[:, ::2], lambda t: t.flatten()[1:17]])
def test_memory_that_cannot_be_shared_is_copied_only_on_request(make, x64_off):
    tensor = make(torch.arange(64.0).reshape(4, 16))
    with pytest.raises(ValueError, match="cannot be shared"):
        from_tensor(tensor)
    np.testing.assert_array_equal(np.asarray(from_tensor(tensor, copy=True)), tensor.numpy())


def test_a_copy_does_not_see_later_writes(x64_off):
    tensor = torch.arange(17.0)[1:]
    array = from_tensor(tensor, copy=True)
    tensor.zero_()
    assert float(array.sum()) == 136.0


def test_streamed_statistics_equal_torch(x64_off):
    model = tiny_model("deepseek_v3")
    written = {}

    def write(texts, sums):
        for i, text in enumerate(texts):
            written[text] = jax.tree.map(lambda x, i=i: np.asarray(x[i]), sums)

    rule = SelectionRule("sigmoid", groups=(2, 1))
    stream = StatisticsStream(write, depth=1, rules=[rule] * 2)
    kept = []
    with torch.inference_mode(), tap_routers(model) as tap:
        for batch in range(3):
            inputs = tiny_inputs(model)
            inputs["input_ids"] = inputs["input_ids"] + batch
            model(**inputs)
            routing = tap.latest
            text = torch.arange(12, dtype=torch.int32) // 6
            text[~routing.mask] = 2
            layers = routing.layers
            for x in layers:
                x.logits[~routing.mask] = float("nan")
            stream.add(
                [2 * batch, 2 * batch + 1],
                [x.logits for x in layers],
                [x.choices for x in layers],
                text,
            )
            kept.append((routing, text))
    assert sorted(written) == [0, 1, 2, 3]  # the last batch is still under way
    stream.close()
    seen = Selection("sigmoid", 2.0**-24, (2, 1), biased=True)
    for i, streamed in enumerate(np.asarray(stream.choice_bound)):
        parts = [(r.layers[i], r.mask.nonzero().flatten()) for r, _ in kept]
        z = torch.cat([x.logits[rows] for x, rows in parts])
        c = torch.cat([x.choices[rows] for x, rows in parts])
        bound = choice_bound(z, c, torch.zeros(len(z), dtype=torch.int64), 1, seen)[0]
        np.testing.assert_allclose(streamed, bound, rtol=SUM_RTOL, atol=SUM_RTOL)
    for batch, (routing, text) in enumerate(kept):
        rows = routing.mask.nonzero().flatten()
        for i, x in enumerate(routing.layers):
            sums = sum_by_text(x.logits[rows], x.choices[rows], text[rows].long(), 2)
            for row in range(2):
                got = written[2 * batch + row]
                assert got.token_count == (6, 4)[row]
                for name in ("logit_sum", "centred_square_sum", "probability_sum"):
                    np.testing.assert_allclose(
                        getattr(got, name)[i],
                        getattr(sums, name)[row],
                        rtol=SUM_RTOL,
                        atol=SUM_RTOL,
                    )
                np.testing.assert_array_equal(got.dispatch_count[i], sums.dispatch_count[row])


def test_stream_holds_a_bounded_number_of_batches(x64_off):
    under_way, most = 0, 0

    def write(_texts, _sums):
        nonlocal under_way
        under_way -= 1

    stream = StatisticsStream(write, depth=2)
    for batch in range(6):
        under_way += 1
        z, text = jnp.zeros((4, 8)), jnp.zeros(4, jnp.int32)
        stream.add([batch], [z], [jnp.zeros((4, 2), jnp.int32)], text)
        most = max(most, under_way)
    stream.close()
    assert (most, under_way) == (2, 0)
