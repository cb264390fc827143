"""Every MoE family of the installed transformers: logits, choices and an undisturbed model.

The choices are checked against the model itself, not against a recomputed top-k: weights of
some experts are changed, and exactly the tokens that are recorded as served by them must change.
"""

import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from mfgjax_extract import tap_routers
from mfgjax_extract.families import EXPERTS_NOT_THE_CHOSEN_ONES, RETURNED_LOGITS_NOT_RAW
from mfgjax_extract.settings import selection_bias

from .changed_experts import ROWS, check_choices
from .tiny_models import FAMILIES, TOP_K, tiny_inputs, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

HAS_SELECTION_BIAS = {"deepseek_v3", "ernie4_5_moe", "lfm2_moe", "longcat_flash", "zaya", "afmoe"}


def tensors_of(output):
    return [v for v in output.to_tuple() if isinstance(v, torch.Tensor)]


def returned_logits(output):
    """What transformers returns as router logits, encoder first as in the module order."""
    names = ("encoder_router_logits", "decoder_router_logits", "router_logits")
    found = [x for n in names for x in (getattr(output, n, None) or ())]
    return [x.reshape(-1, x.shape[-1]) for x in found]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_family(family):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"{family} is not in this transformers")
    model = tiny_model(family)
    inputs = tiny_inputs(model)
    with torch.inference_mode():
        plain = model(**inputs)
        with tap_routers(model) as tap:
            tapped = model(**inputs)
        routing = tap.latest
        own = model(**inputs, output_router_logits=True)

    for a, b in zip(tensors_of(plain), tensors_of(tapped), strict=True):
        assert torch.equal(a, b)
    assert routing.mask is not None and routing.mask.tolist() == [True] * 10 + [False] * 2

    recorded = [layer.logits for layer in routing.layers]
    returned = returned_logits(own)
    if family in RETURNED_LOGITS_NOT_RAW:
        check_known_exception(family, model, recorded, returned)
    else:
        assert len(returned) == len(recorded)
        for a, b in zip(returned, recorded, strict=True):
            assert torch.equal(a, b)

    for layer, router in zip(routing.layers, tap.routers, strict=True):
        assert layer.choices.shape == (
            ROWS,
            1 if family in ("zaya", "switch_transformers") else TOP_K,
        )
        assert layer.scoring is not None
        if family in HAS_SELECTION_BIAS:
            assert selection_bias(router).abs().max() > 0
    if family in EXPERTS_NOT_THE_CHOSEN_ONES:
        return
    last = max(i for i, r in enumerate(tap.routers) if "self_attention" not in r.path)
    check_choices(family, model, inputs, tap.routers[last], routing.layers[last])


def check_known_exception(family, model, recorded, returned):
    """The recorded logits must explain what transformers returns instead of raw ones."""
    if family in ("gemma4_text", "diffusion_gemma_text"):
        recorded = [x.softmax(-1, dtype=torch.float32) for x in recorded]
    elif family == "muse_spark_text":
        recorded = [x * model.config.output_multiplier for x in recorded]
    elif family == "doge":  # (2, token, key) becomes one sum per pair of keys
        keys = int(recorded[0].shape[-1] ** 0.5)
        rows = [x.reshape(2, -1, keys) for x in returned]
        returned = [(x[:, :, None] + y[:, None, :]).flatten(1) for x, y in rows]
    elif family == "deepseek_v4":  # the hash layers are left out
        recorded = recorded[len(recorded) - len(returned) :]
    elif family == "jetmoe":  # each attention router comes twice, in another order
        assert len(returned) == 9 and len(recorded) == 6
        for x in recorded:
            assert any(torch.equal(x, y) for y in returned)
        return
    assert len(recorded) == len(returned)
    for a, b in zip(returned, recorded, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


ROUTERS_WITHOUT_A_TEST = {
    "bailing_hybrid": "BailingHybridForgetGate is a gate of the attention",
    "d_fine": "DFineGate mixes detection features",
    "deimv2": "Deimv2Gate mixes detection features",
    "granite_docling": "GraniteDoclingDensityRouter chooses an image resolution",
}
"""Packages of transformers whose gates have no experts; found by name, not tapped."""


def test_no_family_is_forgotten():
    """Every package of transformers that defines a router class is a case above, or listed."""
    folder = Path(transformers.models.__file__).parent
    pattern = re.compile(r"^class \w*(Router|Gating|MoEGate|V1Gate|Gate)\(", re.MULTILINE)
    files = [p for p in folder.glob("*/modeling_*.py") if pattern.search(p.read_text())]
    covered = {CONFIG_MAPPING[f].__module__.split(".")[2] for f in FAMILIES}
    missing = {p.parent.name for p in files} - covered - set(ROUTERS_WITHOUT_A_TEST)
    assert missing == set()
