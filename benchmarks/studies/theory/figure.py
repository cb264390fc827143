"""Bounds and measurements of the checks, side by side."""

import numpy as np
from matplotlib.figure import Figure

from benchmarks.studies.theory.games import Check
from mfgjax.report.plot import BLUE, GREEN, GREY, VERMILION


def theory_figure(checks: list[Check]) -> Figure:
    """Four panels: Theorem 2.4, Lemma 5.4, Theorems 5.6 and 5.8."""
    found = {check.name: [row for row in check.rows if "gamma" in row] for check in checks}
    figure = Figure(figsize=(7.0, 6.0), layout="constrained")
    panels = figure.subplots(2, 2)
    _softmax(panels[0, 0], found["Theorem 2.4"])
    _contraction(panels[0, 1], found["Lemma 5.4"][:-1])
    _truncation(panels[1, 0], found["Theorem 5.6"])
    _coupling(panels[1, 1], [row for row in found["Theorem 5.8"] if "largest_distance" in row])
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=7)
    return figure


def _columns(rows: list[dict], *names: str) -> list[np.ndarray]:
    return [np.array([row[name] for row in rows], float) for name in names]


def _softmax(panel, rows):
    x, error, simulated, warm = _columns(
        rows, "gamma_delta", "error", "simulated_error", "error_at_that_temperature"
    )
    panel.loglog(x, x, "--", color=GREY, label=r"bound, $\gamma\delta/\lambda$")
    panel.loglog(x, error, "o-", color=BLUE, ms=4, label=r"to softmax$(q)$")
    panel.loglog(x, simulated, "x", color="black", ms=5, label="the same, 200,000 tokens")
    panel.loglog(x, warm, "^-", color=GREEN, ms=4, label=r"to softmax$(q/(1+\gamma/M))$")
    for place, value, row in zip(x, error, rows, strict=True):
        if row["gamma"] in (0.1, 1.0, 8.5, 36.0, 300.0):
            text = rf"$\gamma={row['gamma']:g}$"
            panel.annotate(text, (place, value), (4, -9), textcoords="offset points", fontsize=6)
    panel.set_title("Theorem 2.4", loc="left", fontsize=10)
    panel.set_xlabel(r"$\gamma\delta/\lambda$, $\delta$ = max |load $-$ 1/M|")
    panel.set_ylabel("L1 distance of the equilibrium")


def _contraction(panel, rows):
    x, bound, seen, local, anywhere = _columns(
        rows, "gamma", "bound", "measured_ratio", "remark_5_5_rate", "largest_rate_anywhere"
    )
    panel.loglog(x, bound, "--", color=GREY, label=r"Lemma 5.4, $\gamma/2$")
    panel.loglog(x, anywhere, "s-", color=VERMILION, ms=4, label="largest anywhere")
    panel.loglog(x, seen, "o-", color=BLUE, ms=4, label="largest over random pairs")
    panel.loglog(x, local, "^-", color=GREEN, ms=4, label="Remark 5.5, at equilibrium")
    panel.axhline(1, color="black", lw=0.8, ls=":")
    panel.set_ylim(top=1e3)
    panel.set_title("Lemma 5.4", loc="left", fontsize=10)
    panel.set_xlabel(r"congestion $\gamma$")
    panel.set_ylabel("contraction rate (L1)")


def _truncation(panel, rows):
    x, bound, distance, missing, games = _columns(
        rows, "gamma", "bound", "largest_distance", "without_fixed_point", "games"
    )
    finite = np.isfinite(bound)
    panel.semilogx(x[finite], bound[finite], "--", color=GREY, label="Theorem 5.6")
    panel.semilogx(x, distance, "o-", color=BLUE, ms=4, label="largest distance")
    panel.semilogx(
        x, missing / games, "^-", color=VERMILION, ms=4, label="share without fixed point"
    )
    panel.axhline(2, color="black", lw=0.8, ls=":")
    panel.set_ylim(0, 4.5)
    panel.set_title("Theorem 5.6 (3 of 8 experts)", loc="left", fontsize=10)
    panel.set_xlabel(r"congestion $\gamma$")
    panel.set_ylabel("L1 distance, or share")


def _coupling(panel, rows):
    x, half = _columns(rows, "gamma", "distance_over_half_eps")
    ratio = np.array([row["distance_over_bound"] or np.nan for row in rows])
    panel.semilogx(x, ratio, "o-", color=BLUE, ms=4, label=r"of $\varepsilon/(1-\gamma/2)$")
    panel.semilogx(x, half, "^-", color=GREEN, ms=4, label=r"of $\varepsilon/2$, no contraction")
    panel.axhline(1, color="black", lw=0.8, ls=":")
    panel.set_ylim(0, 1.3)
    panel.set_title("Theorem 5.8 (4 layers of 8)", loc="left", fontsize=10)
    panel.set_xlabel(r"congestion $\gamma$")
    panel.set_ylabel("largest distance, share of bound")
