"""The same extractor on other transformers: `make test-versions` runs this file on 4.57 and 5.2.

transformers 5.0 to 5.5 return probabilities as `router_logits` of many families, and before 5.0
gates are plain linear maps; what is recorded must be raw logits and real choices all the same.
"""

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from mfgjax_extract import tap_routers
from mfgjax_extract.checks import looks_like_probabilities

from .changed_experts import check_choices
from .tiny_models import FAMILIES, tiny_inputs, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

VERSION = tuple(int(n) for n in transformers.__version__.split(".")[:2])
RETURNS_PROBABILITIES = (5, 0) <= VERSION < (5, 6)
ON_THE_NEWEST = ("deepseek_v2", "mixtral", "olmoe", "phimoe")
"""`test_families.py` covers the newest version; these keep this file itself working."""
CASES = [f for f in sorted(FAMILIES) if VERSION < (5, 6) or f in ON_THE_NEWEST]
CHOICE_NOT_REPLAYED = {
    "nllb-moe": "experts other than the chosen ones run (5.x), or outputs are not per token",
    "jetmoe": "attention and feed-forward experts share no layout to change",
}
SETTINGS = {"deepseek_v2": {"topk_method": "greedy"}}
"""transformers 5.0 to 5.5 crash on its expert groups."""
RECOMPUTED = 1e-4
"""Largest difference to a float32 product of the router's input and weight."""


def build(family):
    """A model that runs by itself in this version, or a skip that says why not."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    try:
        model = tiny_model(family, **SETTINGS.get(family, {}))
        inputs = tiny_inputs(model)
        with torch.inference_mode():
            return model, inputs, model(**inputs)
    except Exception as error:  # the sizes above are those of 5.23; older models want others
        pytest.skip(f"transformers {transformers.__version__} cannot run it: {error!r:.100}")


@pytest.mark.parametrize("family", CASES)
def test_family_in_this_version(family):
    model, inputs, plain = build(family)
    with torch.inference_mode(), tap_routers(model) as tap:
        tapped = model(**inputs)
    assert torch.equal(plain[0], tapped[0])
    for router, layer in zip(tap.routers, tap.latest.layers, strict=True):
        assert not looks_like_probabilities(layer.logits)
        assert layer.choices.max() < router.num_experts
    if family not in CHOICE_NOT_REPLAYED:
        check_choices(family, model, inputs, tap.routers[-1], tap.latest.layers[-1])


@pytest.mark.parametrize("family", ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe"])
def test_logits_are_the_linear_map_whatever_is_returned(family):
    model, inputs, _ = build(family)
    seen = []
    gates = list(tap_routers(model).routers)
    handles = [g.module.register_forward_pre_hook(lambda _m, a: seen.append(a[0])) for g in gates]
    with torch.no_grad(), tap_routers(model) as tap:
        returned = model(**inputs, output_router_logits=True).router_logits
    for handle in handles:
        handle.remove()
    for x, gate, layer, back in zip(seen, gates, tap.latest.layers, returned, strict=True):
        want = (x.reshape(-1, x.shape[-1]) @ gate.weight.T).detach()
        torch.testing.assert_close(layer.logits, want, rtol=0, atol=RECOMPUTED)
        assert looks_like_probabilities(back.reshape(want.shape)) == RETURNS_PROBABILITIES
