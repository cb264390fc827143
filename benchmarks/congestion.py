"""Fits of congestion per second against the tools one would use otherwise, in one process.

    python -m benchmarks.congestion --json FILE

Instances are OLMoE-like: 64 experts, loads of a top-8 router. Every row is checked against a dense
grid in float64; a fit is a wrong minimum where its residual exceeds the grid's by more than 1e-4.

Our fits are spread over one device per core, as numba spreads its loop over threads; set XLA_FLAGS
to choose otherwise. Two rows: experts on the last axis, as the peers get them, and on the first, as
`congestion_estimator` makes them.
"""

import os
import time
import warnings

# Before JAX starts: one device per core.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import jax
import jax.numpy as jnp
import numpy as np
import typer
from jax.sharding import NamedSharding, PartitionSpec
from scipy.optimize import minimize_scalar

from benchmarks import tables
from benchmarks.record import JsonFile, keep
from mfgjax.estimate import fit_congestion

HIGHEST = 200.0  # search range of the peers; ours has none to set
WRONG = 1e-4


def instances(count: int, experts: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Quality and load: log load is h q / sigma plus noise, sigma from 1.5 to 3."""
    rng = np.random.default_rng(seed)
    quality = 0.3 * rng.normal(size=(count, experts))
    sigma = rng.uniform(1.5, 3, size=(count, 1))
    weight = np.exp(1.647 * quality / sigma + 0.1 * rng.normal(size=quality.shape))
    return quality, weight / weight.sum(-1, keepdims=True)


def value(objective: str, quality, load, congestion):
    """The objective, in NumPy; for `kl` up to the entropy of the load."""
    logits = quality - congestion * load
    top = logits.max(-1, keepdims=True)
    weight = np.exp(logits - top)
    total = weight.sum(-1, keepdims=True)
    if objective == "l1":
        return np.abs(weight / total - load).sum(-1)
    return (np.log(total) + top)[..., 0] - (load * logits).sum(-1)


def lowest(objective: str) -> float:
    return 0.0 if objective == "l1" else -HIGHEST


def scipy_loop(objective, quality, load):
    """`minimize_scalar(bounded)`, one instance at a time."""

    def one(q, mu):
        bounds = (lowest(objective), HIGHEST)
        found = minimize_scalar(
            lambda g: value(objective, q, mu, g), bounds=bounds, method="bounded"
        )
        return float(found.x)  # pyright: ignore[reportAttributeAccessIssue]

    return np.array([one(q, mu) for q, mu in zip(quality, load, strict=True)])


def numpy_grid(objective, quality, load, points=401):
    """Vectorised over instances: the best of a grid, step 0.5 (l1) or 1 (kl)."""
    best = np.full(len(load), np.inf, load.dtype)
    found = np.zeros(len(load), load.dtype)
    for congestion in np.linspace(lowest(objective), HIGHEST, points).astype(load.dtype):
        reached = value(objective, quality, load, congestion)
        better = reached < best
        best, found = np.where(better, reached, best), np.where(better, congestion, found)
    return found


def numba_golden(dtype):
    """Golden section, compiled, threads over instances; None without numba."""
    try:
        import numba
    except ImportError:
        return None

    @numba.njit(fastmath=True, inline="always")
    def evaluate(kl, q, mu, g):
        total, cross, distance = 0.0, 0.0, 0.0
        for i in range(q.size):
            total += np.exp(q[i] - g * mu[i])
        if kl:
            for i in range(q.size):
                cross += mu[i] * (q[i] - g * mu[i])
            return np.log(total) - cross
        for i in range(q.size):
            distance += abs(np.exp(q[i] - g * mu[i]) / total - mu[i])
        return distance

    @numba.njit(parallel=True, fastmath=True)
    def fit(kl, low, high, quality, load):
        out = np.empty(load.shape[0], load.dtype)
        ratio = 0.6180339887498949
        for row in numba.prange(load.shape[0]):
            q, mu = quality[row], load[row]
            a, b = low, high
            c, d = b - ratio * (b - a), a + ratio * (b - a)
            fc, fd = evaluate(kl, q, mu, c), evaluate(kl, q, mu, d)
            for _ in range(30):
                if fc < fd:
                    b, d, fd = d, c, fc
                    c = b - ratio * (b - a)
                    fc = evaluate(kl, q, mu, c)
                else:
                    a, c, fc = c, d, fd
                    d = a + ratio * (b - a)
                    fd = evaluate(kl, q, mu, d)
            out[row] = (a + b) / 2
        return out

    def run(objective, quality, load):
        kl = objective == "kl"
        return fit(kl, lowest(objective), HIGHEST, quality.astype(dtype), load.astype(dtype))

    return run


def jaxopt_batch(objective, quality, load):
    """ScipyBoundedMinimize has no batch; ProjectedGradient on one number, vmapped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jaxopt

    def loss(congestion, q, mu):
        logits = q - congestion * mu
        if objective == "l1":
            return jnp.abs(jax.nn.softmax(logits) - mu).sum()
        return jax.scipy.special.logsumexp(logits) - mu @ logits

    solver = jaxopt.ProjectedGradient(
        loss, projection=jaxopt.projection.projection_box, maxiter=200, tol=1e-5
    )

    def one(q, mu):
        bounds = (jnp.asarray(lowest(objective), q.dtype), jnp.asarray(HIGHEST, q.dtype))
        return solver.run(jnp.asarray(10.0, q.dtype), bounds, q, mu).params

    return np.asarray(jax.jit(jax.vmap(one))(jnp.asarray(quality), jnp.asarray(load)))


def ours(objective, expert_axis, quality, load):
    """Fits of every instance, spread over all devices; the data are there already."""
    mesh = jax.make_mesh((jax.device_count(),), ("instance",))
    instances_of = PartitionSpec("instance")
    arrays_of = instances_of if expert_axis == -1 else PartitionSpec(None, "instance")

    def fit(q, mu):
        found = fit_congestion(q, mu, objective, count_minima=False, expert_axis=expert_axis)
        return found.congestion

    spread = jax.shard_map(
        fit, mesh=mesh, in_specs=(arrays_of, arrays_of), out_specs=instances_of, check_vma=False
    )
    upright = (one if expert_axis == -1 else one.T for one in (quality, load))
    data = jax.device_put(tuple(upright), NamedSharding(mesh, arrays_of))
    run = jax.jit(spread)
    return lambda n: run(*data)


def reference(objective, quality, load):
    """Dense grid in float64, step 0.02 around the coarse best of step 0.25 over twice the range."""
    best, at = np.full(len(load), np.inf), np.zeros(len(load))
    low = lowest(objective) * 2
    for congestion in np.linspace(low, 2 * HIGHEST, int((2 * HIGHEST - low) * 4) + 1):
        reached = value(objective, quality, load, congestion)
        better = reached < best
        best, at = np.where(better, reached, best), np.where(better, congestion, at)
    for offset in np.linspace(-0.25, 0.25, 26):
        near = np.maximum(at + offset, low)[:, None]
        best = np.minimum(best, value(objective, quality, load, near))
    return best


def best_time(run, repeats: int) -> tuple[float, float, np.ndarray]:
    begun = time.perf_counter()
    out = np.asarray(jax.block_until_ready(run()))
    first, times = time.perf_counter() - begun, []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(run())
        times.append(time.perf_counter() - begun)
    return first, min(times), out


def main(
    json_path: JsonFile = None,
    count: int = 32_768,
    checked: int = 2048,
    repeats: int = 5,
) -> None:
    """Fits per second, disagreement and wrong minima of each tool."""
    jax.config.update("jax_enable_x64", True)
    quality, load = instances(count)
    rows = []
    for objective in ("kl", "l1"):
        best = reference(objective, quality[:checked], load[:checked])
        for dtype in (np.float32, np.float64):
            q, mu = quality.astype(dtype), load.astype(dtype)
            numba_fit = numba_golden(dtype)
            tools = {
                "scipy loop": (
                    200,
                    3,
                    lambda n, o=objective, q=q, mu=mu: scipy_loop(o, q[:n], mu[:n]),
                ),
                "numpy grid": (
                    2048,
                    1,
                    lambda n, o=objective, q=q, mu=mu: numpy_grid(o, q[:n], mu[:n]),
                ),
                "jaxopt": (
                    512,
                    1,
                    lambda n, o=objective, q=q, mu=mu: jaxopt_batch(o, q[:n], mu[:n]),
                ),
                "mfgjax": (count, repeats, ours(objective, -1, q, mu)),
                "mfgjax, experts first": (count, repeats, ours(objective, 0, q, mu)),
            }
            if numba_fit:
                tools["numba"] = (
                    count,
                    repeats,
                    lambda n, o=objective, f=numba_fit, q=q, mu=mu: f(o, q, mu),
                )
            found = {}
            for name, (size, tries, run) in tools.items():
                first, seconds, out = best_time(lambda run=run, size=size: run(size), tries)
                size_checked = min(size, checked)
                reached = value(
                    objective,
                    quality[:size_checked],
                    load[:size_checked],
                    out[:size_checked, None].astype(float),
                )
                worse = reached - best[:size_checked]
                found[name] = size / seconds
                rows.append(
                    {
                        "objective": objective,
                        "dtype": np.dtype(dtype).name,
                        "tool": name,
                        "fits": size,
                        "fits_per_second": size / seconds,
                        "first_call_seconds": first,
                        "times_scipy": size / seconds / found["scipy loop"],
                        "checked": size_checked,
                        "worst_excess": float(worse.max()),
                        "wrong_minima": int((worse > WRONG).sum()),
                    }
                )
    print(tables.congestion(keep(json_path, experts=64, rows=rows)))


if __name__ == "__main__":
    typer.run(main)
