"""Rates, coverage and speed of the maximum likelihood of Gaussian mixtures of experts.

    python -m benchmarks.gaussian_moe --json FILE [--part rates] [--part coverage] [--part speed]

The truth is the published one of arXiv 2305.03288 (two experts on [0, 1], gate 25 x - 8), x uniform; or its
experts behind a sigmoid gate, with weights of one sign or of two. Starts are random, from the data alone,
unless a row says otherwise. Parts of FILE that are not asked for stay as they are.
"""

import json
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import typer
from rich.console import Console

from benchmarks.gaussian_moe_peers import speed
from benchmarks.gaussian_moe_truths import GRID, TRUTHS, draw, near_start, truth
from benchmarks.record import environment
from mfgjax.gaussian_moe import Mixture, fit_mixture, samples_for_temperature
from mfgjax.gaussian_moe.information import fisher_information
from mfgjax.gaussian_moe.model import layout_of, to_vector
from mfgjax.gaussian_moe.result import MixtureFit, MixtureStatus
from mfgjax.gaussian_moe.voronoi import voronoi_loss

ROWS_AT_ONCE = 500_000
COMPACT = {"gate_bound": 15.0, "variance_floor": 1e-3}
"""Of the over-specified fits: weights up to 52 (the true one is 25), variances above Var(y)/1000."""


def in_order(fit: MixtureFit, mixture: Mixture):
    """Estimates and standard errors of two experts with the labels of the truth."""
    names, layout = list(fit.names), fit.layout
    swapped, sign = [], np.ones(len(names))
    for i, name in enumerate(names):
        other = name.translate(str.maketrans({"0": "1", "1": "0"}) if "[" in name else {})
        other = f"{other[:-3]},0]" if ",1]" in other else other
        fixed = name.startswith("offset") or (name.startswith("weight") and layout.relative)
        swapped.append(i if fixed or "[" not in name else names.index(other))
        sign[i] = -1 if fixed else 1
    found, error = fit.vector, {}
    known = np.asarray(mixture.intercept)
    place = layout.of("intercept")[0]
    turned = np.abs(found[:, place] - known[0]) > np.abs(found[:, place] - known[1])
    for kind, matrix in (("information", fit.covariance), ("sandwich", fit.robust_covariance)):
        own = np.diagonal(np.asarray(matrix), axis1=-2, axis2=-1)
        own = np.sqrt(np.where(own > 0, own, np.nan))
        error[kind] = np.where(turned[:, None], own[:, swapped], own)
    return np.where(turned[:, None], (found * sign)[:, swapped], found), error


def in_chunks(mixture: Mixture, replicates: int, n: int, rng, fit) -> MixtureFit:
    """Fits of all replicates, a few at a time."""
    fits, left = [], replicates
    size = max(1, min(replicates, ROWS_AT_ONCE // n))
    while left > 0:
        x, y = draw(mixture, size, n, rng)
        found = fit(x, y)
        fits.append(jax.tree.map(lambda leaf, left=left: np.asarray(leaf)[:left], found))
        left -= size
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *fits)


def slope_of(errors: list[np.ndarray], sizes: list[int], summary, rng, draws: int = 1000):
    """Slope of log summary on log n, equal weights, and its 95% bootstrap interval over replicates."""
    at = np.log(sizes) - np.log(sizes).mean()

    def slope(samples):
        return float(at @ np.log([max(summary(e), 1e-300) for e in samples]) / (at @ at))

    boot = [slope([e[rng.integers(0, len(e), len(e))] for e in errors]) for _ in range(draws)]
    return {"slope": slope(errors), "interval": np.percentile(boot, [2.5, 97.5]).tolist()}


def rms(errors: np.ndarray) -> float:
    return float(np.sqrt((errors**2).mean()))


def evidence(fit: MixtureFit) -> dict:
    status = np.asarray(fit.status)
    return {
        "status": {s.name: int((status == s).sum()) for s in MixtureStatus if (status == s).any()},
        "decrement below 1e-4": float((np.asarray(fit.decrement) <= 1e-4).mean()),
        "found twice": float(np.asarray(fit.found_twice).mean()),
        "starts that reach the best": float(
            (np.asarray(fit.agreeing) / fit.start_log_likelihood.shape[-1]).mean()
        ),
    }


def exact_rates(case: str, sizes: list[int], replicates: int, rng) -> dict:
    """Two experts fitted to two: error of every parameter beside the Cramer-Rao bound."""
    mixture = TRUTHS[case]
    gate = mixture.gate
    layout = layout_of(mixture)
    bound = np.sqrt(np.diag(np.linalg.inv(np.asarray(fisher_information(mixture, GRID)))))
    with jax.enable_x64(True):
        known = np.asarray(to_vector(layout, mixture))
    rows, errors = [], []
    for n in sizes:
        fit = in_chunks(mixture, replicates, n, rng, lambda x, y: fit_mixture(x, y, 2, gate=gate))
        found, _ = in_order(fit, mixture)
        errors.append(found - known)
        times = [rms(e) / (b / n**0.5) for e, b in zip(errors[-1].T, bound, strict=True)]
        rows.append(
            {"n": n, "replicates": replicates, "rms over Cramer-Rao": times} | evidence(fit)
        )
    slopes = [
        {"name": name, "Cramer-Rao sd sqrt(n)": float(bound[i])}
        | slope_of([e[:, i] for e in errors], sizes, rms, rng)
        for i, name in enumerate(layout.names)
    ]
    return {
        "case": f"{case}, two experts fitted to two",
        "samples for the temperature": _finite(samples_for_temperature(mixture, GRID)),
        "sizes": rows,
        "slopes": slopes,
    }


def over_rates(case: str, sizes: list[int], replicates: int, rng) -> dict:
    """Three experts fitted to two, on a compact set: the Voronoi loss, and what is left of it unshifted."""
    mixture = TRUTHS[case]
    gate = mixture.gate
    rows, losses, unshifted, parts = [], [], [], []
    for n in sizes:

        def fit(x, y, n=n):
            first = near_start(mixture, 3, n, len(y), rng)
            bound, floor = COMPACT["gate_bound"], COMPACT["variance_floor"]
            return fit_mixture(
                x, y, 3, gate=gate, initial=first, gate_bound=bound, variance_floor=floor
            )

        found = in_chunks(mixture, replicates, n, rng, fit)
        loss = voronoi_loss(found.mixture, mixture)
        losses.append(loss)
        unshifted.append(voronoi_loss(found.mixture, mixture, translate=False))
        parts.append(split_cell(found.mixture, mixture))
        levels = found.start_log_likelihood
        rows.append(
            {
                "n": n,
                "replicates": replicates,
                "median loss": float(np.median(loss)),
                "mean loss": float(loss.mean()),
                "largest loss": float(loss.max()),
                "median loss without the infimum": float(np.median(unshifted[-1])),
                "start near the truth reaches the best": float(
                    (levels[:, -1] >= levels.max(1) - 1e-3).mean()
                ),
                "nats above the start near the truth": float(
                    np.median(levels.max(1) - levels[:, -1])
                ),
            }
            | evidence(found)
        )
    slopes = [
        {"name": "loss, median"} | slope_of(losses, sizes, np.median, rng),
        {"name": "loss, mean"} | slope_of(losses, sizes, np.mean, rng),
        {"name": "loss without the infimum, median"} | slope_of(unshifted, sizes, np.median, rng),
    ]
    slopes += [
        {"name": f"split cell, {name}, median"}
        | slope_of([p[name] for p in parts], sizes, np.median, rng)
        for name in parts[0]
    ]
    return {
        "case": f"{case}, three experts fitted to two",
        "compact set": COMPACT,
        "sizes": rows,
        "slopes": slopes,
    }


def split_cell(fitted: Mixture, mixture: Mixture) -> dict[str, np.ndarray]:
    """Mean error, by mass, of the experts that share a true one: how fast a split expert closes."""
    fields = ("slope", "intercept", "variance")
    mine = [np.asarray(getattr(fitted, f)).reshape(len(fitted.offset), -1) for f in fields]
    known = [np.asarray(getattr(mixture, f)).reshape(-1) for f in fields]
    away = [m[:, :, None] - k[None, None] for m, k in zip(mine, known, strict=True)]
    cell = np.sum([a**2 for a in away], axis=0).argmin(-1)
    shared = (cell[:, :, None] == cell[:, None]).sum(-1) > 1
    with jax.enable_x64(True):
        chance = np.asarray(jax.vmap(lambda m: m.log_gate(GRID[::20]))(fitted))
    mass = np.exp(chance).mean(1) * shared
    total = mass.sum(-1)
    ok = total > 0
    found = {}
    for field, a in zip(fields, away, strict=True):
        own = np.abs(np.take_along_axis(a, cell[..., None], 2)[..., 0])
        found[field] = ((mass * own).sum(-1) / np.where(ok, total, 1))[ok]
    return found


def coverage_row(case: str, n: int, replicates: int, rng) -> dict:
    """Share of nominal 95% intervals that hold the true value, over converged fits."""
    mixture = TRUTHS[case]
    gate, layout = mixture.gate, layout_of(mixture)
    with jax.enable_x64(True):
        known = np.asarray(to_vector(layout, mixture))
    fit = in_chunks(mixture, replicates, n, rng, lambda x, y: fit_mixture(x, y, 2, gate=gate))
    found, error = in_order(fit, mixture)
    good = np.asarray(fit.converged)
    held = {
        kind: (np.abs(found - known) <= 1.959964 * e)[good].mean(0).tolist()
        for kind, e in error.items()
    }
    row = {"case": case, "n": n, "replicates": replicates, "names": list(layout.names)}
    return row | {"coverage": held} | evidence(fit)


def resolution() -> list[dict]:
    """Observations at which a temperature is known to 10%, by gate and truth."""
    rows = []
    for weight, temperature in (((2.0, -3.0), 0.5), ((8.0, -6.0), 0.2)):
        for gate in ("linear", "relu", "sigmoid", "tanh", "gelu", "softplus"):
            b0 = -0.2 if temperature == 0.5 else -0.4
            one = truth("sigmoid", weight, temperature)
            one = Mixture(
                one.weight, np.array([b0 / temperature, 0.0]), one.temperature,
                one.slope, one.intercept, one.variance, gate,
            )  # fmt: skip
            matrix = np.asarray(fisher_information(one, GRID, raw=True))
            if gate == "linear":  # without the translation of the weights, which is another matter
                matrix = np.delete(np.delete(matrix, 1, 0), 1, 1)
            scale = np.sqrt(np.diag(matrix))
            dead = (scale == 0).any()  # a weight that no x ever feels
            scaled = matrix / np.where(scale > 0, scale, 1) / np.where(scale > 0, scale, 1)[:, None]
            rows.append(
                {
                    "gate": gate,
                    "weights": weight,
                    "temperature": temperature,
                    "smallest eigenvalue": 0.0 if dead else float(np.linalg.eigvalsh(scaled)[0]),
                    "observations": _finite(samples_for_temperature(one, GRID)),
                }
            )
    return rows


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _sizes(low: float, high: float, count: int) -> list[int]:
    return np.rint(np.geomspace(low, high, count)).astype(int).tolist()


PARTS: dict[str, tuple] = {
    "rates, linear": (exact_rates, "linear", _sizes(1e3, 1e5, 8), 100),
    "rates, sigmoid (20, 3)": (exact_rates, "sigmoid (20, 3)", _sizes(5e3, 1e5, 5), 44),
    "rates, sigmoid (8, -6)": (exact_rates, "sigmoid (8, -6)", _sizes(5e3, 8e4, 4), 40),
    "coverage, linear, 1e3": (coverage_row, "linear", 1_000, 1000),
    "coverage, linear, 1e4": (coverage_row, "linear", 10_000, 1000),
    "coverage, sigmoid (20, 3)": (coverage_row, "sigmoid (20, 3)", 10_000, 100),
    "over-specified, linear": (over_rates, "linear", _sizes(1e3, 16e3, 4), 300),
    "over-specified, sigmoid (20, 3)": (over_rates, "sigmoid (20, 3)", _sizes(2e3, 8e3, 3), 20),
}
"""Function, truth, sizes and replicates."""


def main(
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the results here.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Beginnings of: resolution, speed, " + ", ".join(PARTS))
    ] = None,
    fewer: Annotated[int, typer.Option(min=1, help="Divide the replicates by this.")] = 1,
    seed: int = 0,
) -> None:
    """Rates, coverage and speed. A part draws its own data: it is the same alone and among all."""
    console = Console()
    found = json.loads(json_path.read_text()) if json_path and json_path.exists() else {}

    def wanted(name: str) -> bool:
        return not part or any(name.startswith(p) for p in part)

    def keep(name: str, value) -> None:
        found[name] = value
        found["environment"] = environment()
        console.print(f"{name}: done")
        if json_path is not None:
            json_path.write_text(json.dumps(found, indent=1) + "\n")

    if wanted("resolution"):
        keep("resolution", resolution())
    if wanted("speed"):
        keep("speed", speed(seed))
    for number, (name, (study, case, size, replicates)) in enumerate(PARTS.items()):
        if wanted(name):
            rng = np.random.default_rng([seed, number])
            keep(name, study(case, size, max(2, replicates // fewer), rng))


if __name__ == "__main__":
    typer.run(main)
