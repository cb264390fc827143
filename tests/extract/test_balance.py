"""The rules that set prices while training, against plain NumPy; the model that chooses with them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "extract" / "training"))  # scripts, not a package

import train_olmoe  # noqa: E402
from balance import (  # noqa: E402
    Balance,
    follow_load,
    gamma_at,
    leaky_price,
    parse_schedule,
    price_lag,
    price_slope,
    sign_price,
)
from priced_olmoe import PricedOlmoeConfig, PricedOlmoeForCausalLM  # noqa: E402
from train_olmoe import Spacing, build_model, checkpoint_steps, save, train  # noqa: E402

from mfgjax_extract.checks import RoutingError  # noqa: E402
from mfgjax_extract.load import load_model  # noqa: E402
from mfgjax_extract.revisions import list_revisions  # noqa: E402
from mfgjax_extract.settings import selection_bias  # noqa: E402
from mfgjax_extract.tap import tap_routers  # noqa: E402

EXPERTS, TOP_K = 6, 2
SIZES = {"experts": EXPERTS, "top_k": TOP_K, "layers": 2, "hidden": 32, "intermediate": 8}
LOADS = np.random.default_rng(0).dirichlet(np.full(EXPERTS, 4.0), size=30)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("gamma", [0.0, 7.5, 80.0])
def test_leaky_price_is_the_leaky_rule(gamma):
    """`b <- b + eta ((1/M - f) - b/gamma)` with eta = rate gamma, on a running average of the load."""
    rate, load_rate = 0.2, 0.05
    bias, average = torch.ones(EXPERTS), torch.full((EXPERTS,), 1 / EXPERTS)
    want, mean = np.ones(EXPERTS), np.full(EXPERTS, 1 / EXPERTS)
    for load in LOADS:
        average = follow_load(average, torch.tensor(load), load_rate)
        bias = leaky_price(bias, average, gamma, rate)
        mean = (1 - load_rate) * mean + load_rate * load
        want = want + rate * gamma * (1 / EXPERTS - mean) - rate * want
        np.testing.assert_allclose(bias.numpy(), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gamma", [5.0, 40.0, 80.0])
def test_leaky_price_comes_to_rest_where_the_game_has_its_equilibrium(gamma):
    """A softmax router that answers the price: load and price settle, the slope is the gamma set."""
    quality = torch.linspace(-1, 1, EXPERTS)
    bias, average = torch.zeros(EXPERTS), torch.full((EXPERTS,), 1 / EXPERTS)
    for _ in range(600):
        load = torch.softmax(quality + bias, -1)
        average = follow_load(average, load, 0.02)
        bias = leaky_price(bias, average, gamma)
    equilibrium = torch.softmax(quality - gamma * load, -1)
    np.testing.assert_allclose(load.numpy(), equilibrium.numpy(), atol=1e-6)
    assert price_slope(bias, load) == pytest.approx(gamma, rel=1e-4)
    assert price_lag(bias, load, gamma) < 1e-4


def test_sign_price_is_the_loss_free_rule():
    bias, want = torch.zeros(EXPERTS), np.zeros(EXPERTS)
    for load in LOADS:
        bias = sign_price(bias, torch.tensor(load), 1e-3)
        want = want + 1e-3 * np.sign(1 / EXPERTS - load)
    np.testing.assert_allclose(bias.numpy(), want, rtol=1e-12)


def test_slope_and_lag_against_numpy():
    rng = np.random.default_rng(1)
    load, bias = LOADS[0], rng.normal(size=EXPERTS)
    both = torch.tensor(bias), torch.tensor(load)
    assert price_slope(*both) == pytest.approx(-np.polyfit(load, bias, 1)[0])
    distance = np.linalg.norm(bias + 3 * (load - 1 / EXPERTS)) / np.linalg.norm(bias)
    assert price_lag(*both, 3.0) == pytest.approx(distance)
    flat = torch.full((EXPERTS,), 0.5)
    assert np.isnan(price_slope(both[0], flat)) and np.isnan(price_lag(0 * flat, both[1], 1.0))


def test_schedule_is_piecewise_linear_and_says_what_it_cannot_read():
    schedule = parse_schedule("0:0,100:0,200:30,300:10")
    found = [gamma_at(schedule, step) for step in (0, 50, 150, 200, 250, 1000)]
    assert found == [0, 0, 15, 30, 20, 10]
    for text, reason in [
        ("20", "were expected"),
        ("0:0,5:a", "were expected"),
        ("0:0,0:1", "steps must rise"),
        ("0:-1", "at least 0"),
        ("0:inf", "finite"),
    ]:
        with pytest.raises(ValueError, match=reason):
            parse_schedule(text)
    assert checkpoint_steps(100, 5, Spacing.EVEN) == [0, 25, 50, 75, 100]
    early = checkpoint_steps(1000, 9)
    assert early[0] == 0 and early[-1] == 1000 and early[3] < 100


@pytest.fixture(scope="module")
def priced_folder(tmp_path_factory):
    """A checkpoint of a priced model with a bias set by hand."""
    torch.manual_seed(0)
    model = build_model(**SIZES, alpha=0.0, priced=True)
    for layer in model.model.layers:
        layer.mlp.gate.expert_bias.copy_(torch.linspace(-0.5, 0.5, EXPERTS))
    folder = tmp_path_factory.mktemp("priced") / "step0-tokens0"
    model.save_pretrained(folder)
    return folder


def test_a_loaded_model_chooses_with_its_bias(priced_folder):
    """Through `PricedOlmoeForCausalLM` and through the extractor's loader, as a hub model with code."""
    tokens = torch.arange(40)[None] % 256
    (revision,) = list_revisions(str(priced_folder), [])
    models = [
        PricedOlmoeForCausalLM.from_pretrained(priced_folder).eval(),
        load_model(revision, "float32", "cpu", trust_remote_code=True),
    ]
    for model in models:
        with tap_routers(model) as tap, torch.no_grad():
            model(input_ids=tokens)
        assert len(tap.latest.layers) == SIZES["layers"]
        for layer, router in zip(tap.latest.layers, tap.routers, strict=True):
            bias = selection_bias(router)
            assert bias is not None and float(bias.max()) == 0.5
            want = np.argsort(-(layer.logits.numpy() + bias.numpy()), axis=-1)[:, :TOP_K]
            np.testing.assert_array_equal(np.sort(layer.choices.numpy()), np.sort(want))
            plain = np.argsort(-layer.logits.numpy(), axis=-1)[:, :TOP_K]
            assert (np.sort(plain) != np.sort(want)).any()


def test_weights_come_from_the_logits_alone(priced_folder):
    model = PricedOlmoeForCausalLM.from_pretrained(priced_folder).eval()
    router = model.model.layers[0].mlp.gate
    logits, weights, chosen = router(torch.randn(20, SIZES["hidden"], dtype=torch.float32))
    z = logits.detach().numpy()
    probability = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    want = np.take_along_axis(probability, chosen.numpy(), -1)
    np.testing.assert_allclose(weights.detach().numpy(), want, rtol=1e-5)


def test_plain_code_refuses_the_checkpoint(priced_folder):
    """Not loaded as an OLMoE, whose router would choose without the bias."""
    (revision,) = list_revisions(str(priced_folder), [])
    with pytest.raises((ValueError, RoutingError), match=r"trust_remote_code|custom code"):
        load_model(revision, "float32", "cpu", trust_remote_code=False)
    assert PricedOlmoeConfig.model_type != "olmoe"


def test_the_random_start_does_not_depend_on_the_rule():
    """So that runs of one seed differ in their balance only."""
    states = []
    for priced in (False, True):
        torch.manual_seed(3)
        states.append(build_model(**SIZES, alpha=0.0, priced=priced).state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name])


@pytest.mark.parametrize("balance", [Balance.LEAKY, Balance.SIGN])
def test_a_run_that_was_cut_off_goes_on_where_it_was(tmp_path, monkeypatch, balance):
    """Six steps in one go, and with a cut at three: the same weights and prices."""
    torch.set_default_dtype(torch.float32)
    run = {
        **SIZES,
        "balance": balance,
        "gamma_schedule": "0:0,2:8" if balance is Balance.LEAKY else "0:0",
        "checkpoints": 3,
        "spacing": Spacing.EVEN,
        "warmup": 2,
        "steps": 6,
        "batch_size": 2,
        "length": 16,
    }
    train(out=tmp_path / "whole", **run)

    def save_and_stop(out, model, tokenizer, optimizer, step, tokens):
        save(out, model, tokenizer, optimizer, step, tokens)
        if step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_olmoe, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        train(out=tmp_path / "cut", **run)
    monkeypatch.setattr(train_olmoe, "save", save)
    train(out=tmp_path / "cut", **run)
    whole, cut = (
        torch.load(tmp_path / name / "latest.pt", weights_only=True)["model"]
        for name in ("whole", "cut")
    )
    assert any("expert_bias" in name and value.any() for name, value in whole.items())
    for name, value in whole.items():
        assert torch.equal(value, cut[name]), name
    rows = [json.loads(r) for r in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    prices = [row for row in rows if "price_slope" in row]
    assert len(prices[-1]["price_slope"]) == SIZES["layers"]


def test_a_schedule_without_a_price_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="--balance leaky"):
        train(out=tmp_path, balance=Balance.NONE, gamma_schedule="0:20")
