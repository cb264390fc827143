"""Routing that cannot be right is refused, naming the module and the remedy."""

import pytest
import torch
from torch import nn
from transformers import OlmoeForCausalLM, OlmoeModel

from mfgjax_extract import RoutingError, tap_routers
from mfgjax_extract.capture import Calls
from mfgjax_extract.routers import find_routers
from mfgjax_extract.tap import read_layer

PATH = r"layers\.0\.mlp\.gate"


@pytest.fixture
def model(olmoe_config):
    torch.manual_seed(0)
    return OlmoeModel(olmoe_config).eval()


def run(model):
    with torch.inference_mode(), tap_routers(model):
        model(torch.randint(1, 60, (2, 4)), use_cache=False)


def test_no_router(olmoe_config):
    with pytest.raises(RoutingError, match=r"no router found in Linear.*inspect"):
        tap_routers(nn.Linear(2, 2))


def test_compiled_before_the_tap(model):
    with pytest.raises(RoutingError, match="compiled before the tap"):
        tap_routers(torch.compile(model, backend="eager"))
    model.layers[1].compile(backend="eager")
    with pytest.raises(RoutingError, match=r"layers\.1 was compiled before the tap"):
        tap_routers(model)


def test_never_fired(model):
    model.layers[0].mlp.forward = lambda x: x
    with pytest.raises(RoutingError, match=rf"{PATH}.*never fired"):
        run(model)


def test_fired_twice(model):
    model.layers[1].mlp = model.layers[0].mlp
    with pytest.raises(RoutingError, match=rf"{PATH} fired 2 times"):
        run(model)


def test_rows_are_not_tokens(model):
    block = model.layers[0].mlp
    whole = block.forward
    block.forward = lambda x: torch.cat([whole(x[:, 1:].contiguous()), x[:, :1]], dim=1)
    with pytest.raises(RoutingError, match=rf"{PATH} routed 6 rows, the forward had 8 tokens"):
        run(model)


def test_not_finite(model):
    with torch.no_grad():
        model.layers[0].mlp.gate.weight[2, 0] = float("nan")
    with pytest.raises(RoutingError, match=rf"{PATH}: logit nan at row 0, expert 2"):
        run(model)


def test_the_linear_map_was_replaced(model):
    gate = model.layers[0].mlp.gate
    gate.forward = lambda x: (
        z := (x.reshape(-1, 1, 16) * gate.weight).sum(-1),
        *z.softmax(-1).topk(3),
    )
    with pytest.raises(RoutingError, match=rf"{PATH} .*no linear map with its weight"):
        run(model)


def test_stray_call(olmoe_config):
    outer = OlmoeForCausalLM(olmoe_config)
    with pytest.raises(RoutingError, match="tap the module that you call"), tap_routers(outer):
        outer.model(torch.ones(1, 3, dtype=torch.int64))


def test_no_forward_at_all(model):
    with pytest.raises(RoutingError, match="saw no forward"), tap_routers(model):
        pass


def recorded(logits, choices):
    return Calls(logits=logits, output=(logits, None, choices), fired=1)


def test_probabilities_for_logits(model):
    router = find_routers(model)[0]
    calls = recorded(torch.rand(5, 8).softmax(-1), torch.zeros(5, 3, dtype=torch.int64))
    with pytest.raises(RoutingError, match=rf"{PATH}.*probabilities, not logits"):
        read_layer(router, calls, 5)


@pytest.mark.parametrize("bad", [-1, 8])
def test_index_out_of_range(model, bad):
    router = find_routers(model)[0]
    choices = torch.zeros(5, 3, dtype=torch.int64)
    choices[2, 1] = bad
    with pytest.raises(RoutingError, match=rf"{PATH}: expert index {bad} outside 0..7"):
        read_layer(router, recorded(torch.randn(5, 8), choices), 5)


def test_no_choice_seen(model):
    router = find_routers(model)[0]
    calls = Calls(logits=torch.randn(5, 8), output=torch.randn(5, 8), fired=1)
    with pytest.raises(RoutingError, match=rf"{PATH}.*no expert indices"):
        read_layer(router, calls, 5)


def test_padding_rows_may_hold_anything(model):
    router = find_routers(model)[0]
    logits = torch.randn(5, 8)
    logits[4] = float("nan")
    kept = torch.tensor([True] * 4 + [False])
    layer = read_layer(router, recorded(logits, torch.zeros(5, 3, dtype=torch.int64)), 5, kept)
    assert layer.logits.shape == (5, 8)
