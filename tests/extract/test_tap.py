"""The context manager on a live model: training, padding, precision, compilation, other code."""

import copy

import pytest
import torch
from torch import nn
from transformers import (
    OlmoeForCausalLM,
    OlmoeModel,
    SwitchTransformersEncoderModel,
    SwitchTransformersForConditionalGeneration,
)

from mfgjax_extract import RoutingError, tap_routers

from .tiny_models import tiny_inputs, tiny_model

PADDING_TOLERANCE = 1e-5
"""Attention over a padded batch sums in another order."""


@pytest.fixture
def model(olmoe_config):
    torch.manual_seed(0)
    return OlmoeForCausalLM(copy.deepcopy(olmoe_config))


def batch(rows=2, length=6):
    return {"input_ids": torch.randint(1, 60, (rows, length)), "use_cache": False}


def test_training_is_undisturbed_and_no_graph_is_kept(model):
    inputs = batch()
    inputs["labels"] = inputs["input_ids"]
    model.train()
    loss = model(**inputs).loss
    loss.backward()
    want = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with tap_routers(model) as tap:
        tapped = model(**inputs).loss
        tapped.backward()
    assert torch.equal(tapped, loss)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), want, strict=True))
    assert not any(x.logits.requires_grad for x in tap.latest.layers)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_counts_each_router_once(model, reentrant):
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    inputs = batch()
    seen = []
    with tap_routers(model, seen.append):
        if reentrant:
            model.enable_input_require_grads()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert len(seen) == 1 and len(seen[0].layers) == 2
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_sampling_every_third_forward(model):
    seen = []
    with tap_routers(model, lambda r: seen.append(r.forward), every=3), torch.no_grad():
        for _ in range(7):
            model(**batch())
    assert seen == [0, 3, 6]


def test_recorded_tensors_are_never_written_again(model):
    seen = []
    with tap_routers(model, seen.append), torch.no_grad():
        model(**batch())
        kept = seen[0].layers[0].logits.clone()
        model(**batch())
        model.model.layers[0].mlp.gate.weight.zero_()
    assert torch.equal(seen[0].layers[0].logits, kept)


@pytest.mark.parametrize("side", ["left", "right"])
def test_kept_rows_equal_the_unpadded_text(model, side):
    model.eval()
    ids = torch.randint(1, 60, (1, 5))
    pad = torch.zeros(1, 3, dtype=torch.int64)
    ones, parts = torch.ones_like(ids), (ids, pad)
    order = parts if side == "right" else parts[::-1]
    mask = torch.cat([ones, pad] if side == "right" else [pad, ones], dim=1)
    with torch.inference_mode(), tap_routers(model) as tap:
        model(ids, attention_mask=torch.ones_like(ids))
        alone = tap.latest
        model(torch.cat(order, dim=1), attention_mask=mask)
        padded = tap.latest
    for a, b in zip(alone.layers, padded.layers, strict=True):
        torch.testing.assert_close(b.logits[padded.mask], a.logits, rtol=0, atol=PADDING_TOLERANCE)
        assert torch.equal(b.choices[padded.mask].sort().values, a.choices.sort().values)


def test_bfloat16_ties_are_taken_as_the_model_broke_them(model):
    """Equal logits at the boundary of the top-k: only what the experts received can tell."""
    model = model.to(torch.bfloat16).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.gate.weight[4:] = model.model.layers[1].mlp.gate.weight[:4]
    received = []
    handle = model.model.layers[1].mlp.experts.register_forward_pre_hook(
        lambda _m, args: received.append(args[1].clone())
    )
    with torch.inference_mode(), tap_routers(model) as tap:
        model(**batch(4, 16))
    handle.remove()
    layer = tap.latest.layers[1]
    assert layer.logits.dtype == torch.bfloat16
    assert torch.equal(layer.choices, received[0].int())


def test_generation_gives_one_record_per_step(model):
    seen = []
    with tap_routers(model, seen.append):
        model.eval().generate(
            torch.randint(1, 60, (2, 4)), max_new_tokens=3, do_sample=False, pad_token_id=0
        )
    assert [r.layers[0].logits.shape[0] for r in seen] == [8, 2, 2]


def test_a_failing_forward_leaves_no_mode_behind(model):
    def fail(_module, _args, _output):
        raise RuntimeError("inside the router")

    handle = model.model.layers[0].mlp.gate.register_forward_hook(fail)
    with tap_routers(model) as tap, torch.no_grad():
        with pytest.raises(RuntimeError, match="inside the router"):
            model(**batch())
        handle.remove()
        assert torch.overrides._len_torch_function_stack() == 0
        model(**batch())
    assert tap.latest is not None
    assert torch.overrides._len_torch_function_stack() == 0


def test_compiled_inside_the_tap(olmoe_config):
    config = copy.deepcopy(olmoe_config)
    config.num_hidden_layers = 1
    model = OlmoeModel(config).eval()
    inputs = batch()
    with torch.inference_mode():
        with tap_routers(model) as tap:
            model(**inputs)
        want = tap.latest
        with tap_routers(model) as tap:
            torch.compile(model, backend="eager")(**inputs)
    for a, b in zip(tap.latest.layers, want.layers, strict=True):
        assert torch.equal(a.logits, b.logits) and torch.equal(a.choices, b.choices)


def test_encoder_and_decoder_are_kept_apart():
    model = tiny_model("switch_transformers")
    inputs = tiny_inputs(model)
    inputs["decoder_input_ids"] = inputs["decoder_input_ids"][:, :4]
    inputs["decoder_attention_mask"] = torch.ones(2, 4, dtype=torch.int64)
    with torch.inference_mode(), tap_routers(model) as tap:
        model(**inputs)
    rows = {r.in_encoder: x.logits.shape[0] for r, x in zip(tap.routers, tap.latest.layers)}  # noqa: B905
    assert rows == {True: 12, False: 8}
    assert tap.latest.mask.tolist() == [True] * 8
    assert tap.latest.encoder_mask.tolist() == [True] * 10 + [False] * 2


def test_labels_mask_the_decoder_that_is_made_of_them():
    """A trainer gives an encoder-decoder labels only; the encoder's mask is not the decoder's."""
    config = tiny_model("switch_transformers").config
    config.decoder_start_token_id = 0
    model = SwitchTransformersForConditionalGeneration(config).eval()
    inputs = tiny_inputs(model)
    labels = torch.tensor([[5, 6, 7, -100, -100, -100], [5, 6, 7, 8, 9, -100]])
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"labels": labels}
    with torch.inference_mode(), tap_routers(model) as tap:
        model(**inputs)
    assert tap.latest.mask.tolist() == (labels != -100).flatten().tolist()
    assert tap.latest.encoder_mask.tolist() == [True] * 10 + [False] * 2


def test_a_mask_given_by_position_is_seen(model):
    inputs = tiny_inputs(model.eval())
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.inference_mode(), tap_routers(model) as tap:
        model(ids, mask)
    assert tap.latest.mask.tolist() == mask.flatten().bool().tolist()


def test_a_wrapper_that_names_nothing_passes_names_on_or_is_refused(model):
    class Parallel(nn.Module):
        """As data-parallel wrappers are."""

        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *inputs, **kwargs):
            return self.module(*inputs, **kwargs)

    class Other(Parallel):
        def __init__(self, module):
            super().__init__(module)
            self.inner, self.module = self.module, None

        def forward(self, *inputs):
            return self.inner(*inputs)

    inputs = tiny_inputs(model.eval())
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.inference_mode():
        with tap_routers(Parallel(model)) as tap:
            tap._model(ids, mask)
        assert tap.latest.mask.tolist() == mask.flatten().bool().tolist()
        other = Other(model)
        with tap_routers(other) as tap:
            other(ids)
            with pytest.raises(RoutingError, match=r"pass them by name \(attention_mask="):
                other(ids, mask)


def test_an_encoder_alone_is_the_only_stack():
    config = tiny_model("switch_transformers").config
    torch.manual_seed(0)
    model = SwitchTransformersEncoderModel(config).eval()
    inputs = tiny_inputs(model)
    with torch.inference_mode(), tap_routers(model) as tap:
        model(inputs["input_ids"], inputs["attention_mask"])
    assert not any(router.in_encoder for router in tap.routers)
    assert tap.latest.mask.tolist() == [True] * 10 + [False] * 2
    assert tap.latest.encoder_mask is None


def test_capacity_router_reports_chosen_and_dispatched():
    model = tiny_model("switch_transformers", expert_capacity=1)
    with torch.inference_mode(), tap_routers(model) as tap:
        model(**tiny_inputs(model))
    layer = tap.latest.layers[0]
    chosen = layer.choices.reshape(2, 6)
    for text, served in zip(chosen, layer.dispatched.reshape(2, 6), strict=True):
        first = [int(e) not in text[:i].tolist() for i, e in enumerate(text)]
        assert served.tolist() == first
