"""Figures of two experts: branches, control plane, hysteresis, landscape, simulation."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe palette; line style repeats what colour says.
BLUE, VERMILION, GREEN, ORANGE, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#666666"
CYCLE = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (ORANGE, ":"))
STRENGTH = "feedback strength"
ASYMMETRY = "asymmetry (half the bias gap, logits)"
LOAD_GAP = "load gap (expert 1 − expert 2)"


def new_figure(columns: int, height: float = 2.9) -> tuple[Figure, np.ndarray]:
    """A figure two text columns wide with this many panels in a row."""
    figure = Figure(figsize=(7.0, height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, columns))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return figure, panels


def name_panel(panel: Axes, title: str, x: str, y: str) -> None:
    """Title at the left, axis labels."""
    panel.set_title(title, loc="left", fontsize=9)
    panel.set_xlabel(x, fontsize=8.5)
    panel.set_ylabel(y, fontsize=8.5)


def branches_figure(data: xr.Dataset) -> Figure:
    """Load gap against strength, one panel per asymmetry; solid stable, dashed unstable."""
    figure, panels = new_figure(data.sizes["asymmetry"])
    for panel, asymmetry in zip(panels, data.asymmetry.values, strict=True):
        at = data.sel(asymmetry=asymmetry)
        for state in data.state.values:
            gap, stable = at.load_gap.sel(state=state), at.stable.sel(state=state)
            panel.plot(data.strength, gap.where(stable), color=BLUE, lw=1.8)
            panel.plot(data.strength, gap.where(~stable), "--", color=VERMILION, lw=1.4)
        between = at.load_gap.sel(state="between")
        present = np.flatnonzero(np.isfinite(between))
        if len(present) and present[0] > 0:
            first = present[0]
            named = "pitchfork" if asymmetry == 0 else "fold"
            panel.plot(data.strength[first], between[first], "o", color="black", ms=4)
            panel.annotate(
                named,
                (float(data.strength[first]), float(between[first])),
                xytext=(-6, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=8,
            )
        panel.set_ylim(-1.05, 1.05)
        name_panel(panel, f"asymmetry {asymmetry:g}", STRENGTH, "")
    panels[0].set_ylabel(LOAD_GAP, fontsize=8.5)
    handles = [
        panels[0].plot([], [], color=BLUE, lw=1.8, label="stable")[0],
        panels[0].plot([], [], "--", color=VERMILION, lw=1.4, label="unstable")[0],
    ]
    panels[0].legend(
        handles=handles, fontsize=7.5, frameon=False, loc="upper left", handlelength=1.2
    )
    return figure


def control_plane_figure(data: xr.Dataset) -> Figure:
    """The cusp in the plane of strength and asymmetry, exact and to leading order, both routings."""
    figure, panels = new_figure(2)
    for panel, name, title in zip(
        panels, ("softmax", "noisy_top1"), ("softmax routing", "noisy top-1 routing"), strict=True
    ):
        edge, cusp = data[name], data[f"{name}_cusp"]
        panel.fill_between(data.strength, -edge, edge, color=BLUE, alpha=0.18, lw=0)
        for sign in (-1, 1):
            panel.plot(data.strength, sign * edge, color=BLUE, lw=1.8, label="fold (exact)")
            panel.plot(
                data.strength, sign * cusp, "--", color=VERMILION, lw=1.2, label="cusp normal form"
            )
        panel.plot(1, 0, "o", color="black", ms=4)
        panel.annotate(
            "cusp", (1, 0), xytext=(-5, 6), textcoords="offset points", ha="right", fontsize=8
        )
        panel.text(2.05, 0, "two stable states", ha="center", va="center", fontsize=8)
        panel.text(1.22, 0.75, "one stable state", ha="center", va="center", fontsize=8)
        panel.set_xlim(0.7, float(data.strength[-1]))
        panel.set_ylim(-1.0, 1.0)
        name_panel(panel, title, STRENGTH, ASYMMETRY)
    lines, labels = panels[0].get_legend_handles_labels()
    panels[0].legend(lines[:2], labels[:2], fontsize=8, frameon=False, loc="lower left")
    return figure


def hysteresis_figure(data: xr.Dataset) -> Figure:
    """Sweeps up and down, one panel per strength, folds as dotted lines."""
    figure, panels = new_figure(data.sizes["strength"], height=2.6)
    for panel, strength in zip(panels, data.strength.values, strict=True):
        at = data.sel(strength=strength)
        panel.plot(data.asymmetry, at.up, color=BLUE, lw=1.6, label="up")
        panel.plot(data.asymmetry, at.down, "--", color=VERMILION, lw=1.6, label="down")
        if at.fold > 0:
            for fold in (-at.fold, at.fold):
                panel.axvline(float(fold), color=GREY, lw=1, ls=":")
        panel.set_ylim(-1.05, 1.05)
        name_panel(panel, f"strength {strength:g}", "asymmetry (logits)", "")
    panels[0].set_ylabel(LOAD_GAP, fontsize=8.5)
    panels[0].legend(
        fontsize=8,
        frameon=False,
        loc="upper left",
        handlelength=1.4,
        title="sweep",
        title_fontsize=8,
    )
    return figure


def landscape_figure(data: xr.Dataset) -> Figure:
    """Potential of two experts over the gap, and of M equal experts along one leader."""
    figure, panels = new_figure(2, height=3.1)
    for i, (colour, style) in zip(range(data.sizes["setting"]), CYCLE, strict=True):
        at = data.isel(setting=i)
        label = f"strength {float(at.strength):g}, asym. {float(at.asymmetry):.3g}"
        panels[0].plot(data.gap, at.two, color=colour, ls=style, lw=1.6, label=label)
    panels[0].set_ylim(-0.75, 1.6)
    name_panel(panels[0], "two experts", "score gap z (half the logit gap)", "potential V(z)")
    names = ("fold", "Maxwell point", "halfway to the spinodal")
    for value, named, (colour, style) in zip(data.feedback.values, names, CYCLE, strict=False):
        panels[1].plot(
            data.leader_load,
            data.many.sel(feedback=value),
            color=colour,
            ls=style,
            lw=1.6,
            label=f"feedback {value:.2f}: {named}",
        )
    panels[1].set_ylim(-0.35, 0.5)
    title = f"{data.attrs['experts']} equal experts"
    name_panel(panels[1], title, "load of the leading expert", "potential − its value at balance")
    for panel in panels:
        panel.legend(fontsize=7.5, frameon=False, loc="upper center")
    return figure


def empirical_figure(data: xr.Dataset) -> Figure:
    """Simulated imbalance against strength: seeds, their expectation, and the mean field."""
    figure, panels = new_figure(data.sizes["batch_size"])
    for panel, batch_size in zip(panels, data.batch_size.values, strict=True):
        at = data.sel(batch_size=batch_size)
        scatter = np.repeat(data.strength.values, data.sizes["seed"])
        panel.plot(scatter, at.imbalance.values.ravel(), ".", color=GREY, ms=2.5, alpha=0.5)
        panel.plot(
            data.strength, at.imbalance.mean("seed"), "o", color=BLUE, ms=4, label="mean of seeds"
        )
        panel.plot(data.strength, at.expected, "-", color=BLUE, lw=1.4, label="diffusion theory")
        panel.plot(
            data.strength, data.mean_field, "--", color=VERMILION, lw=1.4, label="mean field"
        )
        panel.set_ylim(0, 1.02)
        title = f"{batch_size} token{'s' if batch_size > 1 else ''} a step, step {data.step_size:g}"
        name_panel(panel, title, STRENGTH, "mean |load gap|")
    panels[0].legend(fontsize=8, frameon=False, loc="upper left")
    return figure
