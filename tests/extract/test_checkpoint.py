"""One loaded model to trace files: encoder and decoder streams, capacity, bias, odd models."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import OlmoeModel, SwitchTransformersEncoderModel

from mfgjax.trace import read_trace
from mfgjax.trace.statistics import statistics_of
from mfgjax_extract import RoutingError, find_routers
from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.settings import aux_loss_coef
from mfgjax_extract.texts import EncodedTexts

from .tiny_models import tiny_model

TEXTS = EncodedTexts([[5, 6, 7, 8, 9, 5], [11, 12, 11], [], [20, 21, 22, 23]], "sha256:t", None)
METADATA = {
    "format": "mfgjax-trace",
    "version": 1,
    "model": "tiny",
    "revision": "main",
    "step": None,
    "tokens_seen": None,
    "aux_loss_coef": None,
    "dtype": "float32",
    "texts_hash": "sha256:t",
    "tokenizer_hash": None,
    "text_count": 4,
    "versions": {},
}


def extract(model, out, **changes):
    plan = Plan(out, "main", ("statistics", "tokens"), METADATA, np.float32, **changes)
    return {
        p.name: read_trace(p) for p in extract_checkpoint(model, find_routers(model), TEXTS, plan)
    }


def test_streams_of_an_encoder_decoder_with_capacity(tmp_path):
    found = extract(tiny_model("switch_transformers", expert_capacity=1), tmp_path)
    assert sorted(found) == [
        "main.encoder.statistics.safetensors",
        "main.encoder.tokens.safetensors",
        "main.statistics.safetensors",
        "main.tokens.safetensors",
    ]
    for stream, name in (("encoder", "main.encoder"), ("decoder", "main")):
        tokens = found[f"{name}.tokens.safetensors"]
        sums = found[f"{name}.statistics.safetensors"]
        assert tokens.metadata.stream == sums.metadata.stream == stream
        assert all(path.startswith(stream) for path in tokens.metadata.layers)
        assert sums.statistics.token_count.tolist() == [6, 3, 0, 4]
        assert tokens.metadata.routing["capacity"] is True
        served = np.zeros_like(sums.dispatched_count)
        for token, text in enumerate(tokens.text):
            for layer in range(served.shape[1]):
                expert = tokens.choices[token, layer, 0]
                served[text, layer, expert] += tokens.dispatched[token, layer, 0]
        np.testing.assert_array_equal(sums.dispatched_count, served)
        assert served.max() == 1  # capacity 1: an expert serves one token of a text


def test_an_encoder_alone_is_extracted_as_the_only_stack(tmp_path):
    """It knows no cache, and its routers' paths begin with "encoder"."""
    config = tiny_model("switch_transformers").config
    torch.manual_seed(0)
    model = SwitchTransformersEncoderModel(config).eval()
    found = extract(model, tmp_path)
    assert sorted(found) == ["main.statistics.safetensors", "main.tokens.safetensors"]
    tokens = found["main.tokens.safetensors"]
    assert tokens.metadata.stream == "decoder"
    assert all(path.startswith("encoder") for path in tokens.metadata.layers)
    assert np.bincount(tokens.text, minlength=4).tolist() == [6, 3, 0, 4]


def test_selection_bias_lies_beside_the_logits(tmp_path):
    model = tiny_model("deepseek_v3")
    found = extract(model, tmp_path)
    tokens = found["main.tokens.safetensors"]
    want = [r.module.e_score_correction_bias.numpy() for r in find_routers(model)]
    np.testing.assert_array_equal(tokens.selection_bias, want)
    again = statistics_of(tokens).statistics
    stored = found["main.statistics.safetensors"].statistics
    np.testing.assert_allclose(stored.logit_sum, again.logit_sum, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(stored.dispatch_count, again.dispatch_count)


def test_layers_of_different_top_k_are_refused_and_leave_no_file(tmp_path, olmoe_config):
    model = OlmoeModel(copy.deepcopy(olmoe_config)).eval()
    model.layers[1].mlp.gate.top_k = 2
    with pytest.raises(RoutingError, match=r"layers\.0\.mlp\.gate: M=8 K=3, layers\.1.*K=2"):
        extract(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_logit_beyond_float16_is_refused_in_float16(tmp_path, olmoe_config):
    model = OlmoeModel(copy.deepcopy(olmoe_config)).eval()
    with torch.no_grad():
        model.layers[0].mlp.gate.weight.mul_(1e7)
    plan = Plan(tmp_path, "main", ("tokens",), METADATA)
    with pytest.raises(RoutingError, match="does not fit float16: pass --logit-dtype float32"):
        extract_checkpoint(model, find_routers(model), TEXTS, plan)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("config", "want"),
    [
        (SimpleNamespace(router_aux_loss_coef=0.02), 0.02),
        (SimpleNamespace(moe_aux_loss_coeff=1), 1.0),
        (SimpleNamespace(ffn_config=SimpleNamespace(moe_loss_weight=0.05)), 0.05),
        (SimpleNamespace(get_text_config=lambda: SimpleNamespace(aux_loss_alpha=0.1)), 0.1),
        (SimpleNamespace(aux_loss_coef="auto"), None),
        (None, None),
    ],
)
def test_the_coefficient_is_found_whatever_its_name(config, want):
    """A watched run knew two names that an extracted checkpoint did not, and the other way round."""
    assert aux_loss_coef(config) == want
