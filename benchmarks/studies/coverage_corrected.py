"""Do the default intervals of `mfgjax track` cover? The corrected ones, in the cases of coverage.py.

    python -m benchmarks.studies.coverage_corrected --json FILE

kl: Fieller's interval of the jackknifed score, its t interval, averages over eight layers. l1: the
percentiles of corrected resamples. The uncorrected jackknife of the kl fit stands beside them, with
normal and with t quantiles.
"""

import itertools
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from scipy import stats

from benchmarks.record import JsonFile, keep, table
from benchmarks.studies.coverage import CASES
from mfgjax.estimate import fit_congestion, leave_one_out_weights, unit_weights
from mfgjax.estimate.inference.corrected import (
    correct_resamples,
    fit_corrected,
    influence_error,
    score_interval,
)
from mfgjax.estimate.inference.interval import (
    jackknife_estimate,
    jackknife_interval,
    normal_interval,
)
from mfgjax.estimate.inference.quality import estimate_quality_and_load
from mfgjax.estimate.inference.weights import resample_weights
from mfgjax.simulate import draw_truth, simulate_texts

EXPERTS, LAYERS_AVERAGED = 64, 8
inputs = jax.jit(estimate_quality_and_load)
fit_kl = jax.jit(lambda q, mu: fit_congestion(q, mu, "kl").congestion)
simulate = jax.jit(simulate_texts, static_argnames=("texts", "tokens"))


@jax.jit
def fit_l1_below_zero(quality, load):
    """Definition 3.1 with the range from -2 M: congestion + 2 M of quality + 2 M load."""
    shift = 2 * EXPERTS
    fit = fit_congestion(quality + shift * load, load, "l1", count_minima=False)
    return fit.congestion - shift


def study(case: dict, congestion: float, replicates: int, l1: int, resamples: int, seed: int):
    """Coverage by interval; the first `l1` replicates for the l1 objective."""
    key = jax.random.key(seed)
    one = draw_truth(jax.random.fold_in(key, 0), jnp.full(1, congestion, jnp.float32), EXPERTS)
    truth = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (replicates, *leaf.shape[1:])), one)
    sample = simulate(jax.random.fold_in(key, 1), truth, **case)
    texts = case["texts"]
    quality, load = (leaf[0] for leaf in inputs(sample, unit_weights(texts)))
    without = inputs(sample, leave_one_out_weights(texts))
    signed = fit_kl(quality, load)
    corrected = fit_corrected(signed, quality, load, *without)
    intervals: dict[str, dict[str, Any]] = {"kl": {"score": score_interval(corrected)}}
    quantile = stats.t.ppf(0.975, texts - 1)
    estimate, error = corrected.congestion, influence_error(corrected.influence)
    intervals["kl"]["score, t"] = (estimate - quantile * error, estimate + quantile * error)
    average = estimate.reshape(-1, LAYERS_AVERAGED).mean(-1)
    error = influence_error(corrected.influence.reshape(texts, -1, LAYERS_AVERAGED).mean(-1))
    intervals["kl"]["score, t, average of 8 layers"] = (
        average - quantile * error,
        average + quantile * error,
    )
    left_out = fit_kl(*without)
    spread = left_out.std(0) * (texts - 1) ** 0.5
    jackknife = jackknife_estimate(signed, left_out)
    intervals["kl"]["jackknife"] = normal_interval(jackknife, spread)
    intervals["kl"]["jackknife, t"] = jackknife_interval(signed, left_out)

    first = jax.tree.map(lambda leaf: leaf[:, :l1] if leaf.ndim > 1 else leaf, sample)
    weights = resample_weights(jax.random.fold_in(key, 2), texts, resamples)
    resampled = np.asarray(fit_l1_below_zero(*inputs(first, weights)), float)
    raw = np.asarray(fit_l1_below_zero(quality[:l1], load[:l1]), float)
    of_l1 = jax.tree.map(lambda leaf: leaf[..., :l1], corrected)
    moved = correct_resamples(resampled, raw, np.asarray(signed[:l1], float), of_l1)
    intervals["l1"] = {"corrected": np.quantile(moved, [0.025, 0.975], axis=0)}
    rows = []
    for objective, kinds in intervals.items():
        for kind, (lower, upper) in kinds.items():
            lower, upper = np.asarray(lower), np.asarray(upper)
            share = float(((lower <= congestion) & (congestion <= upper)).mean())
            rows.append(
                {
                    "objective": objective,
                    "interval": kind,
                    "replicates": len(lower),
                    "coverage": share,
                    "monte_carlo_error": float(np.sqrt(share * (1 - share) / len(lower))),
                    "missed_low": float((upper < congestion).mean()),
                    "missed_high": float((lower > congestion).mean()),
                    "median_width": float(np.median(upper - lower)),
                }
            )
    return {
        "median_estimate": float(np.median(signed)),
        "median_corrected": float(np.nanmedian(estimate)),
        "not_identified": float((~np.asarray(corrected.identified)).mean()),
        "intervals": rows,
    }


def markdown(record: dict) -> str:
    """One line per case and congestion, intervals side by side."""
    columns = {
        "case": "case",
        "texts x tokens": "{texts} x {tokens}",
        "γ": "{congestion:g}",
        "kl estimate": "{median_estimate:.1f}",
        "corrected": "{median_corrected:.1f}",
    }
    for place, kind in enumerate(record["results"][0]["intervals"]):
        columns[f"{kind['objective']}: {kind['interval']}"] = (
            f"{{intervals[{place}][coverage]:.3f}}"
        )
    return table(record["results"], columns) + "\n"


def main(
    json_path: JsonFile = None,
    replicates: int = 1000,
    l1: Annotated[int, typer.Option(help="replicates for l1")] = 300,
    resamples: int = 256,
    seed: int = 0,
) -> None:
    """Coverage of nominal 95% intervals; with --json FILE a Markdown table beside it."""
    console, results = Console(width=110), []
    for (name, case), congestion in itertools.product(CASES.items(), (5.0, 30.0)):
        begun = time.perf_counter()
        found = study(case, congestion, replicates, l1, resamples, seed)
        results.append({"case": name, **case, "congestion": congestion, **found})
        console.print(f"{name}, congestion {congestion:g}: {time.perf_counter() - begun:.0f} s")
        keep(
            json_path,
            markdown,
            **{"level": 0.95, "seed": seed, "experts": EXPERTS, "top_k": 8},
            **{"resamples": resamples, "results": results},
        )
    console.print(markdown({"results": results}))


if __name__ == "__main__":
    typer.run(main)
