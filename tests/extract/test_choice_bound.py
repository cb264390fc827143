"""Bounds on the price from choices: seen rules, true bounds, one file for both sides."""

import dataclasses

import numpy as np
import pytest
import torch

from mfgjax.price import compare_stored_bias, reveal_price
from mfgjax.price.stored_bias import Verdict
from mfgjax.trace import read_trace
from mfgjax.trace.choice_bound import choice_bound_of, selection_rule
from mfgjax_extract import find_routers
from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.choice_bound import block_count, choice_bound
from mfgjax_extract.selection import Selection
from mfgjax_extract.texts import EncodedTexts

from .test_checkpoint import METADATA
from .tiny_models import EXPERTS, tiny_model

GENERATOR = torch.Generator().manual_seed(3)
TEXTS = EncodedTexts(
    [torch.randint(3, 60, (n,), generator=GENERATOR).tolist() for n in (24, 40, 0, 31)], "t", None
)
SUM_ROUNDING = 1e-6
"""Twice float32's unit times the largest bias: what the reader of the bounds adds."""

SEEN = {
    "deepseek_v3": ("sigmoid", [2, 1]),
    "glm4_moe": ("sigmoid", [2, 1]),
    "kimi_linear": ("sigmoid", [2, 1]),
    "minimax_m2": ("sigmoid", None),
    "ernie4_5_moe": ("softmax", None),
    "kolibri1": ("logits", None),
    "deepseek_v4": ("sqrtsoftplus", None),
    "deepseek_v2": ("logits", [2, 1]),
    "olmoe": ("logits", None),
}


def extract(model, folder, kinds=("statistics", "tokens"), **options):
    model = tiny_model(model) if isinstance(model, str) else model
    plan = Plan(folder, "main", kinds, METADATA, np.float32, **options)
    routers = [r for r in find_routers(model) if r.reached_by_text]
    if "tokens" in kinds:  # the random table of the hash layer names an expert twice
        routers = [r for r in routers if "Hash" not in type(r.module).__name__]
    return [read_trace(p) for p in extract_checkpoint(model, routers, TEXTS, plan)]


def largest_violation(bound, bias):
    return (bound - (bias[:, None] - bias[None])).max()


@pytest.mark.parametrize("family", SEEN)
def test_rule_is_seen_and_the_stored_bias_keeps_every_bound(family, tmp_path):
    sums, tokens = extract(family, tmp_path, batch_tokens=48)
    score, groups = SEEN[family]
    layer = -1
    routing = sums.metadata.routing
    assert (routing["selection_score"][layer], routing["selection_groups"][layer]) == (
        score,
        groups,
    )
    assert sums.choice_bound.shape[0] == len(TEXTS.ids)
    biased = sums.selection_bias is not None
    bias = sums.selection_bias[layer].astype(float) if biased else np.zeros(EXPERTS)
    whole = sums.choice_bound.max(0)[layer]
    assert largest_violation(whole, bias) < SUM_ROUNDING
    assert np.isfinite(whole).sum() > EXPERTS  # they do say something
    if biased:
        assert largest_violation(whole, np.zeros(EXPERTS)) > 0.01
        assert largest_violation(whole, np.roll(bias, 1)) > 0.01
    # The other side's bounds, from the stored tokens.
    rule = selection_rule(tokens.metadata, layer, biased)
    again = choice_bound_of(tokens, layer, len(TEXTS.ids), rule)
    np.testing.assert_allclose(again, sums.choice_bound[:, layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "options", "compared"),
    [
        ("deepseek_v3", {"n_group": 4, "topk_group": 2}, EXPERTS),
        ("deepseek_v3", {"n_group": 1, "topk_group": 1}, EXPERTS),
        ("glm4_moe", {}, EXPERTS // 2),  # one group of two: they are never compared
        ("kimi_linear", {}, EXPERTS // 2),
    ],
)
def test_a_bias_set_by_hand_comes_back_through_the_extractor(family, options, compared, tmp_path):
    model = tiny_model(family, **options)
    by_hand = torch.linspace(-0.05, 0.05, EXPERTS)
    with torch.no_grad():
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if name.endswith("e_score_correction_bias"):
                tensor.copy_(by_hand)
    true = (by_hand[:, None] - by_hand[None]).numpy()
    for trace in extract(model, tmp_path):
        found = reveal_price(trace)
        assert not found.conflict.any()
        assert (found.difference_low <= true + SUM_ROUNDING).all()
        assert found.two_sided.sum(-1).max() == compared
        for layer, both in enumerate(found.two_sided):
            known = by_hand.numpy()[both]
            error = found.bias[layer, both] - (known - known.mean())
            assert (np.abs(error) <= found.half_width[layer, both] + SUM_ROUNDING).all()
        stored = trace.selection_bias.astype(float)
        verdicts = {one.verdict for one in compare_stored_bias(found, stored)}
        assert verdicts <= {Verdict.APPLIED, Verdict.UNDECIDED} and Verdict.APPLIED in verdicts
        stale = compare_stored_bias(found, np.roll(stored, 3, -1))
        assert not {Verdict.APPLIED, Verdict.UNDECIDED} & {one.verdict for one in stale}


def test_bounds_equal_a_loop_over_tokens():
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(size=(30, EXPERTS)))
    choices = (logits + torch.linspace(0, 1, EXPERTS)).topk(3).indices
    block = torch.arange(30) % 2
    got = choice_bound(logits, choices, block, 2, Selection("logits", 0.0, None, True))
    want = np.full((2, EXPERTS, EXPERTS), -np.inf)
    for token in range(30):
        chosen = set(choices[token].tolist())
        for i in chosen:
            for j in set(range(EXPERTS)) - chosen:
                at = (int(block[token]), i, j)
                want[at] = max(want[at], float(logits[token, j] - logits[token, i]))
    np.testing.assert_array_equal(got.numpy(), want)


def test_a_rule_that_is_not_seen_gives_no_bounds(tmp_path):
    sums, _ = extract("doge", tmp_path)
    assert set(sums.metadata.routing["selection_score"]) == {"unknown"}
    assert sums.choice_bound is None


def test_a_layer_routed_by_a_hash_is_left_out(tmp_path):
    [sums] = extract("deepseek_v4", tmp_path, kinds=("statistics",))
    assert sums.metadata.routing["selection_score"][0] == "unknown"
    assert np.isneginf(sums.choice_bound[:, 0]).all()
    with pytest.raises(ValueError, match="could not be seen"):
        selection_rule(sums.metadata, 0, True)


def test_blocks_stay_small():
    assert block_count(50, 16, 64) == 8
    assert block_count(50, 58, 256) == 2
    assert block_count(50, 48, 512) == 1
    assert block_count(3, 4, 16) == 3
    assert block_count(50, 4, 16, most=0) == 0


def test_no_blocks_no_bounds(tmp_path):
    sums, _ = extract("olmoe", tmp_path, choice_blocks=0)
    assert sums.choice_bound is None


def test_float16_rounding_is_allowed_for(tmp_path):
    """Bounds from logits rounded to float16 never exceed those of the logits themselves."""
    sums, tokens = extract("kolibri1", tmp_path)
    rough = dataclasses.replace(tokens, logits=tokens.logits.astype(np.float16))
    rule = selection_rule(tokens.metadata, 1, True)
    bound = choice_bound_of(rough, 1, 1, rule)[0]
    assert (bound <= sums.choice_bound.max(0)[1] + SUM_ROUNDING).all()
    assert largest_violation(bound, sums.selection_bias[1].astype(float)) < SUM_ROUNDING
    unrounded = dataclasses.replace(
        rough.metadata, routing=rough.metadata.routing | {"logit_dtype_in_model": "float16"}
    )
    bold = choice_bound_of(dataclasses.replace(rough, metadata=unrounded), 1, 1, rule)[0]
    assert (bold > sums.choice_bound.max(0)[1] + 1e-5).any()  # the allowance is what does it


def test_bounds_hold_for_a_router_in_bfloat16(tmp_path):
    """Logits of 8 bits, ranked as sigmoids in float32 plus a bias that was rounded with the model."""
    model = tiny_model("minimax_m2")
    model.config._experts_implementation = "eager"  # the grouped product needs wider experts
    model = model.to(torch.bfloat16).eval()
    for trace in extract(model, tmp_path):
        assert trace.metadata.routing["logit_dtype_in_model"] == "bfloat16"
        found = reveal_price(trace)
        assert not found.conflict.any()
        for layer, stored in enumerate(trace.selection_bias.astype(float)):
            low = found.difference_low[layer]
            assert largest_violation(low, stored) < SUM_ROUNDING
            assert largest_violation(low, np.roll(stored, 1)) > 0.01
            both = found.two_sided[layer]
            error = found.bias[layer, both] - (stored[both] - stored[both].mean())
            assert both.sum() > 2
            assert (np.abs(error) <= found.half_width[layer, both] + SUM_ROUNDING).all()
