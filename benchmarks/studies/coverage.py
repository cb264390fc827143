"""Do the intervals cover? Replicates of a router with known congestion, every interval.

    python -m benchmarks.studies.coverage --json FILE

Replicates ride on the layer axis: each is an independent sample from the same truth, and all are
resampled with the same draws, which leaves each replicate's coverage what it is.
"""

import itertools
import time
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep, table
from mfgjax.estimate.inference.bootstrap import bootstrap_texts, congestion_estimator
from mfgjax.estimate.inference.interval import (
    basic_interval,
    bca_interval,
    jackknife_estimate,
    normal_interval,
    percentile_interval,
    studentized_interval,
)
from mfgjax.estimate.inference.sandwich import sandwich_error
from mfgjax.estimate.inference.weights import leave_one_out_weights, unit_weights
from mfgjax.simulate import draw_truth, simulate_texts
from mfgjax.simulate.equilibrium_texts import RouterTruth

ALIKE, UNLIKE = 2000.0, 200.0  # concentration of text loads around the mean load
CASES = {
    "plain": {"texts": 50, "tokens": 200, "quality_noise": 0.02, "concentration": ALIKE},
    "paper size": {"texts": 50, "tokens": 14, "quality_noise": 0.02, "concentration": ALIKE},
    "noisy quality": {"texts": 50, "tokens": 200, "quality_noise": 0.1, "concentration": ALIKE},
    "unlike texts": {"texts": 50, "tokens": 200, "quality_noise": 0.02, "concentration": UNLIKE},
    "many texts": {"texts": 400, "tokens": 200, "quality_noise": 0.02, "concentration": ALIKE},
}


@lru_cache
def _kl_with_error():
    return lambda statistics, weights, own: sandwich_error(statistics, weights)


def study(case: dict, congestion: float, replicates: int, resamples: int, seed: int) -> dict:
    """Coverage of every interval x objective for one truth; also the bias and what corrects it."""
    key = jax.random.key(seed)
    one = draw_truth(jax.random.fold_in(key, 0), jnp.full(1, congestion, jnp.float32), 64)
    truth: RouterTruth = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (replicates, *leaf.shape[1:])), one
    )
    simulate = jax.jit(simulate_texts, static_argnames=("texts", "tokens"))
    statistics = simulate(jax.random.fold_in(key, 1), truth, **case)
    draws = jax.random.fold_in(key, 2)
    texts = case["texts"]
    intervals, bias = {}, {}
    for objective in ("kl", "l1"):
        fit = congestion_estimator(objective)
        estimate = jax.jit(fit)(statistics, unit_weights(texts))[0][0]
        left_out = jax.jit(fit)(statistics, leave_one_out_weights(texts))[0]
        if objective == "kl":
            error = jax.jit(sandwich_error)(statistics, unit_weights(texts))[1][0]
            resampled, own = bootstrap_texts(
                statistics, draws, resamples, _kl_with_error(), memory=2e9
            )
            intervals["kl", "sandwich normal"] = normal_interval(estimate, error)
            intervals["kl", "studentized"] = studentized_interval(estimate, error, resampled, own)
        else:
            resampled, _ = bootstrap_texts(statistics, draws, resamples, fit, memory=2e9)
        resampled = jnp.asarray(resampled)
        intervals[objective, "percentile"] = percentile_interval(resampled)
        intervals[objective, "basic"] = basic_interval(estimate, resampled)
        intervals[objective, "bca"] = bca_interval(estimate, resampled, left_out)
        jackknife = jackknife_estimate(estimate, left_out)
        spread = left_out.std(0) * (texts - 1) ** 0.5  # of the jackknife
        intervals[objective, "jackknife"] = normal_interval(jackknife, spread)
        bias[objective] = {
            "estimate": float(estimate.mean() - congestion),
            "bootstrap corrected": float((2 * estimate - resampled.mean(0)).mean() - congestion),
            "jackknife corrected": float(jackknife.mean() - congestion),
            "standard deviation": float(estimate.std()),
            "jackknife deviation": float(jackknife.std()),
        }
    rows = []
    for (objective, kind), (lower, upper) in intervals.items():
        covered = np.asarray((lower <= congestion) & (congestion <= upper))
        share = float(covered.mean())
        rows.append(
            {
                "objective": objective,
                "interval": kind,
                "coverage": share,
                "monte_carlo_error": float(np.sqrt(share * (1 - share) / replicates)),
                "missed_low": float(np.asarray(upper < congestion).mean()),
                "missed_high": float(np.asarray(lower > congestion).mean()),
                "median_width": float(np.median(np.asarray(upper - lower))),
            }
        )
    return {"bias": bias, "intervals": rows}


def markdown(record: dict) -> str:
    """The table of the docs."""
    rows = []
    for case in record["results"]:
        for objective, bias in case["bias"].items():
            found = {
                interval["interval"]: f"{interval['coverage']:.3f}"
                for interval in case["intervals"]
                if interval["objective"] == objective
            }
            rows.append({**case, "objective": objective, "found": found, "bias": bias})
    names = list(dict.fromkeys(name for row in rows for name in row["found"]))
    columns = {
        "case": "case",
        "texts x tokens": "{texts} x {tokens}",
        "sigma_q": "quality_noise",
        "gamma": "{congestion:g}",
        "objective": "objective",
        **{name: lambda row, name=name: row["found"].get(name, "-") for name in names},
        "bias": "{bias[estimate]:+.1f}",
        "bias, jackknife": "{bias[jackknife corrected]:+.1f}",
    }
    return table(rows, columns)


def main(
    json_path: JsonFile = None,
    replicates: int = 1000,
    resamples: int = 512,
    seed: int = 0,
) -> None:
    """Coverage of nominal 95% intervals."""
    console, results = Console(width=110), []
    for (name, case), congestion in itertools.product(CASES.items(), (5.0, 30.0)):
        begun = time.perf_counter()
        found = study(case, congestion, replicates, resamples, seed)
        seconds = time.perf_counter() - begun
        results.append(
            {"case": name, **case, "congestion": congestion, "seconds": seconds, **found}
        )
        console.print(f"{name}, congestion {congestion:g}: {seconds:.0f} s")
    record = keep(
        json_path,
        markdown,
        **{"replicates": replicates, "resamples": resamples, "seed": seed},
        **{"experts": 64, "top_k": 8, "level": 0.95, "results": results},
    )
    console.print(markdown(record), soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
