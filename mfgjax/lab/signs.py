"""Published signs, looked for in a lab's results: reproduced, contradicted, undecided, or not run.

Each claim is judged by an interval of 95% of its own; with twenty of them one would be judged by chance alone. So each
has a second verdict, which Holm's correction makes hold for all claims of a page together.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from mfgjax.lab.differences import (
    Interval,
    Results,
    arms_of,
    chance,
    compare,
    holm,
    interval,
    values,
)

Verdict = Literal["reproduced", "contradicted", "undecided", "not run"]
AUX, SIGN = "auxiliary-alpha=0.01", "sign-step=0.01"
SOON = 10
"""Steps within which quantile balancing is said to balance."""


class Sign(NamedTuple):
    """Attributes:
    claim: in words.
    source: arXiv number or thread.
    verdict, evidence: what the results say.
    chance: p-value of what the verdict rejects; None where it rejects nothing.
    together: the verdict if it is to hold with all others of the page.
    """

    claim: str
    source: str
    verdict: Verdict
    evidence: str
    chance: float | None = None
    together: Verdict = "not run"


def judge(found: Interval, expected: Literal["lower", "higher"]) -> Verdict:
    """Whether the interval of a difference lies on the expected side of 0."""
    if not found.seeds:
        return "not run"
    below, above = found.high < 0, found.low > 0
    if not (below or above):
        return "undecided"
    return "reproduced" if below == (expected == "lower") else "contradicted"


def published_signs(results: Results) -> list[Sign]:
    """Every claim, judged on the arms that were run."""
    found = [
        _side(results, claim, source, arm, other, metric, expected)
        for claim, source, arm, other, metric, expected in SIDES
    ]
    found += [check(results) for check in CHECKS]
    found += [_dial(results, metric, what) for metric, what in DIALS.items()]
    return _judged_together(found)


def _judged_together(found: list[Sign]) -> list[Sign]:
    tested = [place for place, sign in enumerate(found) if sign.chance is not None]
    corrected = dict(zip(tested, holm([found[i].chance or 0.0 for i in tested]), strict=True))
    return [
        sign._replace(together="undecided" if corrected.get(place, 0) > 0.05 else sign.verdict)
        for place, sign in enumerate(found)
    ]


SIDES: list[tuple[str, str, str, str, str, Literal["lower", "higher"]]] = [
    ("The loss-free bias balances better than the auxiliary loss", "2408.15664", SIGN, AUX, "training_max_violation", "lower"),
    ("... at a lower loss", "2408.15664", SIGN, AUX, "held_out_loss", "lower"),
    ("Sign steps of 1e-3 are too slow early: 1e-2 balances better by now", "2408.15664", SIGN, "sign-step=0.001", "training_max_violation", "lower"),
    ("Sign steps of 5e-2 end at a higher floor than 1e-2", "2408.15664", "sign-step=0.05", SIGN, "batch_max_violation", "higher"),
    ("Quantile balancing has a lower loss than the auxiliary loss", "marin #4041, #4023", "quantile", AUX, "held_out_loss", "lower"),
    ("BIP has a lower loss than the auxiliary loss", "2502.15451", "bip", AUX, "held_out_loss", "lower"),
    ("Balance over the global batch costs less loss than per micro-batch", "2501.11873", AUX, "auxiliary-micro", "held_out_loss", "lower"),
    ("... and leaves more information about the domain", "2501.11873", AUX, "auxiliary-micro", "domain_information", "higher"),
    ("Pooling the layers leaves single layers less balanced", "transformers #28255", "auxiliary-pooled", AUX, "max_violation", "higher"),
    ("Hashed choices are more even than free ones", "2202.01169", "hash", "none", "training_max_violation", "lower"),
    ("... at a higher loss", "2202.01169", "hash", "none", "held_out_loss", "higher"),
    ("Random choices lose to learnt ones", "2202.01169", "random", "none", "held_out_loss", "higher"),
    ("Expert choice over the batch has a lower loss than token choice", "2202.09368", "expert-choice", "none", "held_out_loss", "lower"),
    ("Expert threshold has a lower loss than token choice", "2603.11535", "expert-threshold", "none", "held_out_loss", "lower"),
    ("Dropping beyond capacity costs loss", "2101.03961", "capacity", AUX, "held_out_loss", "higher"),
    ("z-loss shrinks the logits", "2202.08906", "z-loss-coefficient=0.01", "none", "logit_dispersion", "lower"),
    ("SMEBU ends at a lower floor than sign steps as large, 1e-2", "2602.17004", "smebu-step=0.01", SIGN, "batch_max_violation", "lower"),
    ("... 5e-2", "2602.17004", "smebu-step=0.05", "sign-step=0.05", "batch_max_violation", "lower"),
    ("SimBal balances without a balance loss", "2506.14038", "simbal", "none", "training_max_violation", "lower"),
]  # fmt: skip


def _side(results, claim, source, arm, other, metric, expected) -> Sign:
    found = compare(results, arm, other, metric)
    evidence = f"{arm} less {other}: {found.text(4)}" if found.seeds else f"{arm} or {other}"
    return Sign(claim, source, judge(found, expected), evidence, _chance(found))


def _chance(found: Interval, null: float = 0.0) -> float | None:
    return chance(found, null) if found.seeds else None


def _balanced_soon(results: Results) -> Sign:
    claim = f"Quantile balancing is balanced within {SOON} steps"
    source = "marin, jonathanc.net"
    steps = [run["steps_to_balance"] for run in results["runs"] if run["arm"] == "quantile"]
    if not steps:
        return Sign(claim, source, "not run", "quantile")
    good = sum(step is not None and step <= SOON for step in steps)
    verdict = "reproduced" if good == len(steps) else "undecided" if good else "contradicted"
    told = ", ".join("never" if step is None else str(step) for step in steps)
    evidence = f"first step with MaxVio of the batch within 0.1 of its floor, by seed: {told}"
    return Sign(claim, source, verdict, evidence)


def _no_leak_no_gain(results: Results) -> Sign:
    claim = "The same expert-choice weights lose when they cannot look ahead"
    causal = {
        run["seed"]: run["held_out_loss_causal"]
        for run in results["runs"]
        if run["arm"] == "expert-choice"
    }
    free = values(results, "expert-choice", "held_out_loss")
    found = interval([causal[seed] - free[seed] for seed in causal if seed in free])
    evidence = f"causal less batch: {found.text(4)} nats" if found.seeds else "expert-choice"
    return Sign(claim, "2408.15664", judge(found, "higher"), evidence, _chance(found))


def _scale_only(results: Results) -> Sign:
    """No movement is claimed: the interval must hold 0 and be narrow beside what balancing does."""
    claim, arm = "z-loss does not move the balance", "z-loss-coefficient=0.01"
    moved = compare(results, arm, "none", "training_max_violation")
    balancing = compare(results, AUX, "none", "training_max_violation")
    if not moved.seeds or not balancing.seeds:
        return Sign(claim, "2202.08906", "not run", arm)
    inside = moved.low <= 0 <= moved.high
    narrow = max(abs(moved.low), abs(moved.high)) < 0.25 * abs(balancing.mean)
    verdict = "reproduced" if inside and narrow else "undecided" if inside else "contradicted"
    evidence = f"MaxVio by {moved.text()}; the auxiliary loss by {balancing.text()}"
    rejected = None if inside else _chance(moved)
    return Sign(claim, "2202.08906", verdict, evidence, rejected)


def _dial(results: Results, metric: str, what: str) -> Sign:
    """The slope of the log of a metric on the log of what was set, over doses of 3 to 100."""
    claim = f"{what} is the congestion that was set: slope 1 over doses from 3 to 100"
    arms = {
        name: arm["settings"]["congestion"]
        for name, arm in arms_of(results).items()
        if arm["rule"] == "leaky" and 3 <= arm["settings"].get("congestion", 0) <= 100
    }
    if len(arms) < 3:
        return Sign(claim, "this package", "not run", "three doses of leaky")
    by_seed: dict[int, list[tuple[float, float]]] = {}
    for name, dose in arms.items():
        for seed, value in values(results, name, metric).items():
            if value > 0:
                by_seed.setdefault(seed, []).append((np.log(dose), np.log(value)))
    points = [np.array(pairs).T for pairs in by_seed.values() if len(pairs) > 2]
    slopes = [float(np.polyfit(x, y, 1)[0]) for x, y in points]
    found = interval(slopes)
    held = found.low <= 1 <= found.high
    near = abs(found.mean - 1) <= 0.05
    verdict = "reproduced" if near and held else "undecided" if held else "contradicted"
    rejected = None if held else _chance(found, 1.0)
    return Sign(
        claim, "this package", verdict, f"slope {found.text()}, of values above 0", rejected
    )


CHECKS: list[Callable[[Results], Sign]] = [_balanced_soon, _no_leak_no_gain, _scale_only]
DIALS = {
    "price_in_force": "The slope of the stored price on the load in training",
    "congestion_of_tokens": "γ_token on held-out text",
}
