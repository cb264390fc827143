"""Where the paper's numbers do not add up, each with the numbers that show it."""

import numpy as np

from mfgjax.report.inputs import Inputs
from mfgjax.report.reference import SOURCE, published, published_table
from mfgjax.report.section import Section

EXPERTS = 64
"""Of OLMoE-1B-7B, the model of Table 1."""


def section(inputs: Inputs) -> Section:
    """What is printed there, and what does not follow from it."""
    return Section(
        "Where the paper does not add up",
        tables=(
            published("table1_olmoe_dynamics", "Table 1, OLMoE-1B-7B"),
            published("table2_openmoe_dynamics", "Table 2, OpenMoE-8B"),
        ),
        background=(f"Of {SOURCE}.", *footnotes()),
    )


def footnotes() -> list[str]:
    """Remarks on arXiv 2604.04230, computed from its published tables where they are kept.

    `python -m benchmarks.studies.theory` measures what is said of its theorems.
    """
    return [*_numbers(), *_theorems()]


def _numbers() -> list[str]:
    olmoe, openmoe = (
        published_table(f"table{number}") for number in ("1_olmoe_dynamics", "2_openmoe_dynamics")
    )
    groups, models = (
        published_table("table5_decomposition"),
        published_table("table6_cross_architecture"),
    )
    mean = np.average(groups["mean_gamma"], weights=groups["layer_count"])
    split = groups["mean_gamma"][:2] / groups["gamma_explicit"][:2] - 1
    rises = int((np.diff(olmoe["b0"]) > 0).sum())
    first = ", ".join(f"{value:.2f}" for value in openmoe["b0"][:3])
    multi = published_table("table4_heldout_l1")["multitype_mfg"].mean()
    margin = olmoe["gamma_eff"] * (EXPERTS - 1) / EXPERTS / olmoe["b0"]
    widest = int(margin.argmax())
    tied = models["k_over_m"] == 0.125
    verdicts = " and ".join(
        f"{name} ({verdict})"
        for name, verdict in zip(models["model"][tied], models["mfg_wins"][tied], strict=True)
    )
    return [
        f"Table 5's groups average {mean:.1f} over 16 layers; Table 1 reports 8.5 for the same "
        f"checkpoint. Its 18x and 85x are effective over explicit; implicit over explicit is "
        f"{split[0]:.0f} and {split[1]:.0f}.",
        f"B0 is said to decrease monotonically; in Table 1 it rises {rises} times, and in Table 2 it "
        f"first goes {first}.",
        f"The multi-type L1 is {multi:.3f} in Tables 3 and 4 and 0.146 in the ablation of Section 6.4.",
        "Remark 5.3 finds the safety margin widest at gamma = 36.0, 12.8x; by Table 1 it is "
        f"{margin[widest]:.1f}x at step {olmoe['step'][widest]}.",
        f"K/M is said to predict whether the game fits; Table 6 has the same K/M for {verdicts}.",
    ]


def _theorems() -> list[str]:
    congestion = published_table("table1_olmoe_dynamics")["gamma_eff"]
    smallest = np.nanmin(congestion)
    models = published_table("table6_cross_architecture")
    least = 2 * (1 - models["k_over_m"]).min()
    largest = max(models["l1_mfg"].max(), models["l1_uniform"].max())
    warm = 1 + 36 / EXPERTS
    local = 2 * (1 - 8 / EXPERTS) / (1 - 0.83)
    return [
        "Theorem 2.4 gives the softmax temperature lambda. The equilibrium is near the softmax at "
        f"temperature lambda + gamma/M, {warm:.2f} at gamma = 36: what matters is gamma against lambda M, "
        "not how balanced the load is. [derived]",
        "Theorem 3.2(i) calls the L1 residual unimodal. It is not: q = (1.7, -3.2, 1.2), load "
        "(.40, .29, .31) has minima near gamma = 9.9 (.562) and 175 (.800), and at a uniform load every "
        "gamma is a minimiser. So (iii), continuity, fails too. The residual tends to 2 (1 - min load), not 2.",
        "Theorems 5.6 and 5.8 need gamma / (2 lambda) < 1, so gamma < 2; the smallest gamma of Table 1 "
        f"is {smallest:g}. Both bounds are vacuous at every checkpoint. Remark 5.5 puts the rate at the "
        "equilibrium in place of the worst case, which a fixed-point bound cannot use; with its own rate of "
        f"0.83, Theorem 5.6 would bound by {local:.1f} a distance that is at most 2.",
        f"At any gamma Theorem 5.6 allows {least:.2f} or more for the models of Table 6, whose errors are "
        f"at most {largest:.2f}: it does not tell them apart. The truncated fixed point that it compares with "
        "need not exist: with 3 of 8 experts it is missing in 60% of random games at gamma = 1, in all at 16.",
        "Theorem 5.8's eps_l is a range of downstream values in logits. Logits do not fix it (a constant "
        "on all experts of the next layer changes no choice there), and Section 6.6 measures something else: "
        "L1 distances of group loads, which are near 2 for layers that repeat each other, where the "
        "theorem's eps_l is 0.",
        "Token-level dispersion of the logits produces a gamma of M (sigma / h - 1) with no balancing "
        "at all, which covers the paper's range; the excess over it is what a balance story explains. [derived]",
    ]
