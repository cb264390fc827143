"""Where the paper's numbers do not add up, each with the numbers that show it."""

import numpy as np

from mfgjax.report.reference import published_table


def footnotes() -> list[str]:
    """Remarks on arXiv 2604.04230, computed from its published tables where they are kept."""
    olmoe = published_table("table1_olmoe_dynamics")
    spread, congestion = olmoe["b0"], olmoe["gamma_eff"]
    rises = int((np.diff(spread) > 0).sum())
    groups = (6 * 11.8 + 4 * 54.4) / 16
    multi = published_table("table4_heldout_l1")["multitype_mfg"].mean()
    return [
        f"Table 5's groups average {groups:.1f} over 16 layers; Table 1 reports 8.5 for the same "
        "checkpoint.",
        f"B0 is said to decrease monotonically; in Table 1 it rises {rises} times.",
        f"The multi-type L1 is {multi:.3f} in Tables 3 and 4 and 0.146 in the ablation of Section 6.4.",
        "Theorems 5.6 and 5.8 need gamma / (2 lambda) < 1, so gamma < 2; the smallest gamma of Table 1 "
        f"is {np.nanmin(congestion):g}. Both bounds are vacuous at every checkpoint. Remark 5.5 puts the "
        "rate at the equilibrium in place of the worst case, which a fixed-point bound cannot use.",
        "Theorem 3.2(i) calls the L1 residual unimodal. It is not: q = (1.7, -3.2, 1.2), load "
        "(.40, .29, .31) has minima near gamma = 9.9 (.562) and 175 (.800).",
        "Token-level dispersion of the logits produces a gamma of M (sigma / h - 1) with no balancing "
        "at all, which covers the paper's range; the excess over it is what a balance story explains.",
    ]
