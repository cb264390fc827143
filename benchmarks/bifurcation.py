"""Equilibria on a plane of feedback strength and asymmetry, against a scipy continuation loop.

    python -m benchmarks.bifurcation --json benchmarks/results/bifurcation.json

The plane is solved whole by vmap; scipy follows the three branches of a sample of its rows, each from
the neighbouring solution. Both run in this process; what either leaves unsolved stays in the table.
"""

import json
import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from scipy.optimize import root

from mfgjax.bifurcation import collapse_margin
from mfgjax.bifurcation.control_plane import control_plane
from mfgjax.bifurcation.two_expert import fold_asymmetry

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


def main(
    json_path: Annotated[Path | None, typer.Option("--json", help="Write results here.")] = None,
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
    report(records, ratio)
    if json_path:
        device = jax.devices()[0]
        environment = {
            "command": " ".join(["python", "-m", "benchmarks.bifurcation", *sys.argv[1:]]),
            "device": f"{device.platform}: {device.device_kind}",
            "cores": os.cpu_count(),
            "load_average": os.getloadavg()[0],
            "python": platform.python_version(),
            "versions": {name: version(name) for name in ("jax", "numpy", "scipy")},
        }
        record = {"environment": environment, "seed": seed, "ratio": ratio, "results": records}
        json_path.write_text(json.dumps(record, indent=1) + "\n")


def report(records: list[dict], ratio: float) -> None:
    """Print the records and the ratio of the two rates."""
    table = Table("what", "dtype", "points", "compile s", "run s", "per s", "unsolved", "check")
    for row in records:
        checks = {
            "wrong_count": "wrong counts",
            "largest_residual": "residual",
            "distance_to_vmap": "distance",
        }
        check = ", ".join(f"{name} {row[key]:.2g}" for key, name in checks.items() if key in row)
        table.add_row(
            row["what"],
            row["dtype"],
            str(row["points"]),
            f"{row['compile_s']:.1f}" if "compile_s" in row else "",
            f"{row['run_s']:.2f}",
            f"{row['equilibria_per_s']:,.0f}",
            str(row["unsolved"]),
            check,
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"vmap finds {ratio:,.0f} times as many equilibria per second as the loop")


if __name__ == "__main__":
    typer.run(main)
