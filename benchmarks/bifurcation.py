"""Equilibria on a plane of feedback strength and asymmetry, against a scipy continuation loop.

    python -m benchmarks.bifurcation --json benchmarks/results/bifurcation.json

The plane is solved whole by vmap; scipy follows the three branches of a sample of its rows, each from
the neighbouring solution. Both run in this process; what either leaves unsolved stays in the table.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import typer
from scipy.optimize import root

from benchmarks.record import Cell, JsonFile, keep, table
from mfgjax.bifurcation import collapse_margin
from mfgjax.bifurcation.two_expert import control_plane, fold_asymmetry

STRENGTH, ASYMMETRY = (0.5, 3.0), (-1.5, 1.5)


def timed(function, *arguments):
    """Seconds to compile (and run once), best of three runs, and the result."""
    begun = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    first = time.perf_counter() - begun
    runs = []
    for _ in range(3):
        begun = time.perf_counter()
        result = jax.block_until_ready(function(*arguments))
        runs.append(time.perf_counter() - begun)
    return first - min(runs), min(runs), result


def follow(strength: float, asymmetries: np.ndarray, gap: float) -> np.ndarray:
    """One branch by natural continuation: scipy's root from the last solution; NaN once lost."""
    gaps = np.full(len(asymmetries), np.nan)
    for i, asymmetry in enumerate(asymmetries):
        found = root(
            lambda z, h=asymmetry: strength * np.tanh(z) - z + h,
            gap,
            jac=lambda z: np.atleast_2d(strength / np.cosh(z) ** 2 - 1),
            tol=1e-12,
        )
        lost = np.abs(found.fun[0]) > 1e-9  # `success` is also False at the rounding floor
        if lost or (i > 0 and abs(found.x[0] - gap) > 0.5):  # a jump: past the fold
            break
        gap = gaps[i] = found.x[0]
    return gaps


def scipy_row(strength: float, asymmetries: np.ndarray) -> np.ndarray:
    """The three branches of one row: upwards, from the middle outwards, downwards."""
    middle = len(asymmetries) // 2
    reach = strength + abs(asymmetries[0])
    lower = follow(strength, asymmetries, -reach + 0.2)
    upper = follow(strength, asymmetries[::-1], reach - 0.2)[::-1]
    between = np.full(len(asymmetries), np.nan)
    if strength > 1:
        between[middle:] = follow(strength, asymmetries[middle:], 0.0)
        between[:middle] = follow(strength, asymmetries[:middle][::-1], 0.0)[::-1]
    return np.stack([lower, between, upper], axis=-1)


def compare(plane, rows: np.ndarray):
    """Seconds of scipy on these rows, its points, how far it is from the plane, what it lost."""
    asymmetries = np.asarray(plane.asymmetry)
    begun = time.perf_counter()
    loop = np.stack([scipy_row(float(plane.strength[r]), asymmetries) for r in rows])
    seconds = time.perf_counter() - begun
    exact = np.asarray(plane.gap[rows])
    # compare as sets: below strength 1 the plane's one root changes slot with the field's sign
    near = np.abs(loop[..., :, None] - exact[..., None, :])
    near = np.where(np.isnan(near), np.inf, near).min(axis=-1)
    followed = np.isfinite(loop)
    distance = near[followed].max()
    reverse = np.abs(exact[..., :, None] - loop[..., None, :])
    reverse = np.where(np.isnan(reverse), np.inf, reverse).min(axis=-1)
    present = np.isfinite(exact)
    lost = (reverse[present] > 1e-6).sum()
    return seconds, int(present.sum()), float(distance), int(lost)


def markdown(record: dict) -> str:
    """The table of the docs."""

    def count(name: str) -> Cell:
        return lambda row: f"{row[name]:,.0f}" if name in row else "-"

    def small(name: str) -> Cell:
        return lambda row: f"{row[name]:.1e}" if name in row else "-"

    columns = {
        "tool": "what",
        "dtype": "dtype",
        "points": count("points"),
        "equilibria": count("equilibria"),
        "per second": count("equilibria_per_s"),
        "unsolved": "unsolved",
        "wrong count": count("wrong_count"),
        "largest residual": small("largest_residual"),
        "distance to vmap": small("distance_to_vmap"),
    }
    return table(record["results"], columns)


def main(
    json_path: JsonFile = None,
    points: int = 1000,
    sample: int = 12,
    seed: int = 0,
) -> None:
    """Time the plane, check it against the exact fold curve and against scipy."""
    jax.config.update("jax_enable_x64", True)
    records = []
    rows = np.sort(np.random.default_rng(seed).choice(points, size=sample, replace=False))
    for dtype in (jnp.float64, jnp.float32):
        strength = jnp.linspace(*STRENGTH, points, dtype=dtype)
        asymmetry = jnp.linspace(*ASYMMETRY, points, dtype=dtype)
        compile_s, run_s, plane = timed(jax.jit(control_plane), strength, asymmetry)
        wedge = np.asarray(fold_asymmetry(strength))[:, None]
        inside = np.abs(np.asarray(asymmetry))[None, :] < wedge
        wrong = int((np.asarray(plane.count) != np.where(inside, 3, 1)).sum())
        gap = np.asarray(plane.gap, np.float64)
        field = np.asarray(strength, np.float64)[:, None, None] * np.tanh(gap) - gap
        residual = np.nanmax(np.abs(field + np.asarray(asymmetry, np.float64)[None, :, None]))
        found = int(np.isfinite(gap).sum())
        records.append(
            {
                "what": "vmap, whole plane",
                "dtype": jnp.dtype(dtype).name,
                "points": points * points,
                "equilibria": found,
                "compile_s": compile_s,
                "run_s": run_s,
                "equilibria_per_s": found / run_s,
                "unsolved": int(plane.unsolved),
                "wrong_count": wrong,
                "largest_residual": float(residual),
            }
        )
        if dtype == jnp.float64:
            seconds, present, distance, lost = compare(plane, rows)
            records.append(
                {
                    "what": f"scipy continuation, {sample} rows",
                    "dtype": "float64",
                    "points": sample * points,
                    "equilibria": present - lost,
                    "run_s": seconds,
                    "equilibria_per_s": (present - lost) / seconds,
                    "unsolved": lost,
                    "distance_to_vmap": distance,
                }
            )
    quality = 0.3 * jax.random.normal(jax.random.key(seed), (256, 64), jnp.float64)
    margins = jax.jit(jax.vmap(collapse_margin, (0, None)))
    compile_s, run_s, margin = timed(margins, quality, jnp.asarray(-5.0))
    records.append(
        {
            "what": "collapse margin and gradient, 64 experts",
            "dtype": "float64",
            "points": 256,
            "compile_s": compile_s,
            "run_s": run_s,
            "equilibria_per_s": 256 / run_s,
            "unsolved": int((~jnp.isfinite(margin.margin)).sum()),
        }
    )
    ratio = records[0]["equilibria_per_s"] / records[1]["equilibria_per_s"]
    record = keep(json_path, markdown, seed=seed, ratio=ratio, results=records)
    print(markdown(record))
    print(f"vmap finds {ratio:,.0f} times as many equilibria per second as the loop")


if __name__ == "__main__":
    typer.run(main)
