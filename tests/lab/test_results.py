"""From measures to verdicts, on results whose truth is known."""

import itertools

import numpy as np
import pytest
from scipy import stats

from mfgjax.lab.differences import METRICS, chance, compare, holm, interval
from mfgjax.lab.doses import answers, families, loss_at_equal_balance, verdicts
from mfgjax.lab.figures import loss_and_balance
from mfgjax.lab.measure import byte_class, co_activation, mutual_information
from mfgjax.lab.report import markdown, write_report
from mfgjax.lab.signs import judge, published_signs

SEEDS = range(5)


def run(arm, rule, seed, settings=None, **changes):
    """Measures of two layers; `changes` are per-run numbers."""
    draw = np.random.default_rng((abs(hash(arm)) % 1000, seed))
    lists = {
        name: [value, value]
        for name, value in {
            "training_max_violation": 1.0,
            "batch_max_violation": 1.1,
            "max_violation": 1.0,
            "entropy": 0.9,
            "dead_experts": 0,
            "congestion_of_tokens": 0.0,
            "price_slope": 0.0,
            "signed_congestion": 5.0 + 0.1 * draw.standard_normal(),
            "excess_over_dispersion": 0.0,
            "excess_over_permutation": 0.0,
            "excess_over_counterfactual": 0.0,
            "price_spread": 0.0,
            "logit_dispersion": 1.0,
            "logit_mean_spread": 0.5,
            "domain_information": 0.1,
            "byte_class_information": 0.2,
            "co_activation": 0.1,
            "masking_mean": 0.01,
            "masking_largest": 0.1,
            **changes,
        }.items()
        if name != "held_out_loss"
    }
    return {
        "arm": arm,
        "rule": rule,
        "settings": settings or {},
        "seed": seed,
        "held_out_loss": changes.get("held_out_loss", 2.0) + 0.1 * seed,  # seeds differ by more
        "dropped_share": 0.0,
        "training_max_violation_floor": 0.0,
        "batch_max_violation_floor": 0.1,
        "max_violation_floor": 0.0,
        "batch_max_violation_every_tenth_step": [1.0, 0.5],
        "steps_to_balance": None,
        **lists,
    }


def lab(*arms):
    return {
        "preset": {
            "shape": {"experts": 16, "top_k": 4, "layers": 2, "width": 8},
            "plan": {"micro_batches": 3, "batch": 1, "length": 8, "steps": 20},
        },
        "jax": "0",
        "python": "3",
        "device": "cpu",
        "runs": [run(arm, rule, seed, s, **c) for arm, rule, s, c in arms for seed in SEEDS],
    }


DOSES = [
    (f"leaky-congestion={g}", "leaky", {"congestion": g}, {"congestion_of_tokens": 0.98 * g})
    for g in (1.0, 10.0, 100.0)
]
KNOWN = lab(
    ("none", "none", {}, {}),
    ("hash", "hash", {}, {"training_max_violation": 0.2, "held_out_loss": 2.3}),
    ("z-loss-coefficient=0.01", "z-loss", {}, {"logit_dispersion": 0.5}),
    ("auxiliary-alpha=0.01", "auxiliary", {}, {"training_max_violation": 0.3}),
    ("capacity", "capacity", {}, {"held_out_loss": 1.9}),
    *DOSES,
)


FAINT = lab(
    ("none", "none", {}, {}),
    ("hash", "hash", {}, {"training_max_violation": 0.2}),
    ("random", "random", {}, {}),
)
for extra, one in zip((0.05, 0.4, 0.3, 0.1, 0.4), FAINT["runs"][-5:], strict=True):  # p = 0.03
    one["held_out_loss"] += extra


def test_paired_differences_do_not_see_what_seeds_share():
    found = compare(KNOWN, "hash", "none", "held_out_loss")
    assert found.low == pytest.approx(0.3)
    assert found.high == pytest.approx(0.3)
    sample = [1.0, 2.0, 4.0]
    want = stats.t.interval(0.95, 2, loc=np.mean(sample), scale=stats.sem(sample))
    np.testing.assert_allclose(interval(sample)[1:3], want)
    assert interval([1.0]).text() == "1.000 (1 seed)"


def test_t_intervals_of_differences_cover():
    draw = np.random.default_rng(0)
    held = []
    for _ in range(2000):
        shared = draw.standard_normal(5)
        a = dict(enumerate(shared + 1 + 0.3 * draw.standard_normal(5)))
        b = dict(enumerate(shared))
        found = interval([a[s] - b[s] for s in a])
        held.append(found.low <= 1 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.015)


def test_chances_are_those_of_the_t_test_and_holm_s_of_its_definition():
    sample = [0.3, -0.1, 0.4, 0.2, 0.25]
    for null in (0.0, 0.1):
        assert chance(interval(sample), null) == pytest.approx(
            stats.ttest_1samp(sample, null).pvalue
        )
    assert chance(interval([0.1])) == 1  # one seed tells nothing
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_claims_that_are_true_by_chance_alone_do_not_stand_together():
    """Twenty arms that differ from none by noise: one page in twenty may hold one that stands, and 13 hold some."""
    draw = np.random.default_rng(3)
    pages = draw.standard_normal((1000, 20, 5))
    chances = 2 * stats.t.sf(np.abs(pages.mean(2)) / stats.sem(pages, axis=2), 4)
    alone = (chances <= 0.05).any(1).mean()
    together = np.mean([min(holm(page)) <= 0.05 for page in chances])
    assert alone > 0.5
    assert together == pytest.approx(0.05, abs=0.02)


def test_signs_are_judged_by_the_side_of_the_interval():
    said = {sign.claim: sign.verdict for sign in published_signs(KNOWN)}
    assert said["Hashed choices are more even than free ones"] == "reproduced"
    assert said["... at a higher loss"] == "reproduced"
    assert said["Dropping beyond capacity costs loss"] == "contradicted"
    assert said["z-loss shrinks the logits"] == "reproduced"
    assert said["z-loss does not move the balance"] == "reproduced"
    assert said["BIP has a lower loss than the auxiliary loss"] == "not run"
    assert said["Quantile balancing is balanced within 10 steps"] == "not run"
    assert judge(interval([-0.1, 0.2, 0.1]), "lower") == "undecided"
    both = {sign.claim: (sign.verdict, sign.together) for sign in published_signs(FAINT)}
    assert both["Random choices lose to learnt ones"] == ("reproduced", "undecided")
    assert both["Hashed choices are more even than free ones"] == ("reproduced", "reproduced")


def test_doses_and_scale_are_told_apart():
    (family,) = families(KNOWN)
    assert family.arms == {dose: f"leaky-congestion={dose}" for dose in (1.0, 10.0, 100.0)}
    given = answers(KNOWN)
    found = dict(zip([answer.metric for answer in given], verdicts(given), strict=True))
    assert found["congestion_of_tokens"] == "leaky (rises)"
    assert found["logit_dispersion"] == "scale (rises with it)"
    assert found["entropy"] == ""


def test_loss_at_equal_balance_is_read_off_the_sweep():
    """The sweep loses 0.1 per unit of MaxVio; an arm at 1.5 with a loss 0.05 below that line."""
    sweep = [
        (
            f"auxiliary-alpha={a}",
            "auxiliary",
            {"alpha": a},
            {"training_max_violation": v, "held_out_loss": 2 + v / 10},
        )
        for a, v in ((0.1, 0.5), (0.01, 1.0), (0.001, 2.0))
    ]
    arms = {"inside": (1.5, 2.1), "outside": (3.0, 2.0)}
    others = [
        (name, "sign", {}, {"training_max_violation": v, "held_out_loss": w})
        for name, (v, w) in arms.items()
    ]
    results = lab(*sweep, *others)
    assert loss_at_equal_balance(results, "inside").mean == pytest.approx(-0.05)
    assert loss_at_equal_balance(results, "outside").seeds == 0
    assert "Loss at equal balance" in markdown(results)


def test_the_page_shows_every_number_and_figure(tmp_path):
    files = {path.name for path in write_report(KNOWN, tmp_path)}
    assert files >= {"report.md", "report.html", "loss_and_balance.png", "doses_leaky.png"}
    text = markdown(KNOWN)
    assert all(metric.label in text for metric in METRICS.values())
    assert "5 seeds each" in text
    held = sum(line.count("[") for line in text.splitlines() if line.startswith("| "))
    assert f"The page holds {held} intervals" in text
    assert "data:image/png" in (tmp_path / "report.html").read_text()


def test_every_arm_stands_in_the_legend_and_no_tick_labels_meet():
    """With losses on both sides of 0, and as many arms as the preset `grid` has."""
    levels = np.geomspace(0.02, 3, 44)
    arms = [
        (f"arm{n}", "sign", {}, {"training_max_violation": v - 0.03}) for n, v in enumerate(levels)
    ]
    figure = loss_and_balance(lab(("none", "none", {}, {"training_max_violation": 3.0}), *arms))
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.y0 < legend.y1 <= figure.bbox.height
    assert len(figure.legends[0].get_texts()) == 45
    labels = [
        t
        for t in figure.axes[0].get_xticklabels()
        if figure.axes[0].viewLim.x0 <= t.get_position()[0] <= figure.axes[0].viewLim.x1
    ]
    places = sorted((box.x0, box.x1) for box in (t.get_window_extent() for t in labels))
    assert len(places) >= 3
    assert all(a[1] + 10 < b[0] for a, b in itertools.pairwise(places))


def test_information_against_closed_forms():
    group = np.repeat([0, 1], 5000)
    told = np.eye(4, dtype=bool)[group]  # one expert per group
    assert mutual_information(group, told) == pytest.approx(np.log(2), abs=1e-3)
    blind = np.eye(4, dtype=bool)[np.random.default_rng(0).integers(0, 4, 10_000)]
    assert abs(mutual_information(group, blind)) < 5e-4
    draw = np.random.default_rng(1)
    apart = np.argsort(draw.random((20_000, 8)), axis=1)[:, :2]
    drawn = (apart[..., None] == np.arange(8)).any(1)
    assert co_activation(drawn) < 0.02
    pairs = np.repeat(np.eye(4, dtype=bool)[draw.integers(0, 4, 20_000)], 2, axis=1)
    assert co_activation(pairs) > 0.3
    assert byte_class(np.frombuffer(b"a7 \n,\xff", np.uint8)).tolist() == [0, 1, 2, 3, 4, 5]
