"""What excess congestion detects: how often its paired interval excludes zero, by router.

    python -m benchmarks.studies.excess_power --json FILE [--tokens 40]

Top-4 of 32, 50 texts of 40 tokens. Routers: no balancing (the rate is that of false alarms) with equal,
per-expert, skewed and correlated noise, with a shift common to the logits of a token and with text
effects; a selection bias
of several strengths; qualities trained against an auxiliary loss. Nulls: permutation
(`permutation_excess`) and dispersion (equal Gaussian noise). Replicates ride on the layer axis.
"""

import time
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from scipy import stats

from benchmarks.record import JsonFile, keep, table
from mfgjax.estimate import leave_one_out_weights, unit_weights
from mfgjax.estimate.congestion.diagnostics import normalized_entropy
from mfgjax.estimate.inference.corrected import influence_error
from mfgjax.estimate.null.dispersion import weighted_null
from mfgjax.estimate.null.permutation import BinnedStatistics, permutation_pair, with_bins
from mfgjax.simulate.top_k_router import (
    balance_by_bias,
    balance_by_loss,
    choose_experts,
    draw_logits,
)
from mfgjax.trace.statistics import per_text_statistics

EXPERTS, TOP_K, TEXTS, TOKENS = 32, 4, 50, 40
DISPERSION, QUALITY_SPREAD = 2.0, 0.3
CHUNK = 50
SETTINGS = ("bias", "aux_loss_coef", "correlation", "log_range", "text_effect", "skewed", "shift")
ROUTERS: dict[str, dict] = {
    "no balancing, equal noise": {},
    "no balancing, noise differs 1:4 between experts": {"log_range": 1.4},
    "no balancing, skewed noise": {"skewed": 1.0},
    "no balancing, skewed noise, negative": {"skewed": -1.0},
    "no balancing, skewed noise differs 1:4": {"skewed": 1.0, "log_range": 1.4},
    "no balancing, equal noise, shift as large": {"shift": 1.0},
    "no balancing, skewed noise, shift as large": {"skewed": 1.0, "shift": 1.0},
    "no balancing, text effects of half the noise": {"text_effect": 0.5},
    "no balancing, noise correlated 0.2": {"correlation": 0.2},
    "no balancing, noise correlated 0.5": {"correlation": 0.5},
    "selection bias, 5% of full": {"bias": 0.05},
    "selection bias, 10% of full": {"bias": 0.1},
    "selection bias, 20% of full": {"bias": 0.2},
    "selection bias, half": {"bias": 0.5},
    "selection bias, full": {"bias": 1.0},
    "auxiliary loss 3": {"aux_loss_coef": 3.0},
    "auxiliary loss 30": {"aux_loss_coef": 30.0},
}


def draw_router(
    key,
    kind,
    text,
    bias=0.0,
    aux_loss_coef=0.0,
    correlation=0.0,
    log_range=0.0,
    text_effect=0.0,
    skewed=0.0,
    shift=0.0,
) -> tuple[jax.Array, jax.Array]:
    """Logits and choices of one replicate: its own qualities, noise and balancing.

    `skewed` is the sign of exponential noise (skewness 2), or 0 for normal noise.
    """
    keys = jax.random.split(key, 8)
    tokens = text.shape[0]
    quality = QUALITY_SPREAD * jax.random.normal(keys[0], (EXPERTS,), jnp.float32)
    drawn = jax.random.uniform(keys[5], (EXPERTS,), jnp.float32, -0.5, 0.5)
    spread = DISPERSION * jnp.exp(log_range * drawn)
    if kind == "loss":
        quality = balance_by_loss(
            keys[1], quality, DISPERSION, TOP_K, aux_loss_coef, tokens=1024, steps=40, rate=0.02
        )
    logits = draw_logits(keys[2], quality, spread, tokens, correlation)
    exponential = jax.random.exponential(keys[6], logits.shape, jnp.float32) - 1
    logits = jnp.where(skewed == 0, logits, quality[None] + skewed * spread[None] * exponential)
    logits = logits + shift * DISPERSION * jax.random.normal(keys[7], (tokens, 1), jnp.float32)
    effect = jax.random.normal(keys[3], (TEXTS, EXPERTS), jnp.float32)
    logits = logits + text_effect * DISPERSION * effect[text]
    selection = None
    if kind == "bias":
        # Trained on tokens of its own, as a router's is.
        training = draw_logits(keys[4], quality, spread, 1024, correlation)
        selection = bias * balance_by_bias(training, TOP_K, steps=40)
    return logits, choose_experts(logits, TOP_K, selection)


@partial(jax.jit, static_argnames=("kind", "tokens"))
def replicates(keys: jax.Array, kind: str, tokens: int, router: dict) -> dict[str, jax.Array]:
    """Congestion, both excesses and their standard errors, one per key."""
    text = jnp.repeat(jnp.arange(TEXTS), tokens)
    logits, chosen = jax.vmap(lambda key: draw_router(key, kind, text, **router))(keys)
    logits, chosen = jnp.moveaxis(logits, 0, 1), jnp.moveaxis(chosen, 0, 1)
    statistics: BinnedStatistics = with_bins(
        per_text_statistics(logits, chosen, text, TEXTS), logits, text, TOP_K
    )
    without = leave_one_out_weights(TEXTS)
    own, null = permutation_pair(statistics, without, TOP_K)
    weights = jnp.concatenate([unit_weights(TEXTS), without])
    formula = weighted_null(statistics, weights, TOP_K)
    pseudo = TEXTS * formula[:1] - (TEXTS - 1) * formula[1:]
    load = statistics.dispatch_count.sum(0)
    return {
        "congestion": own.congestion,
        "permutation": own.congestion - null.congestion,
        "permutation_error": influence_error(own.influence - null.influence),
        "formula": own.congestion - formula[0],
        "formula_error": influence_error(own.influence - pseudo),
        "entropy": normalized_entropy(load / load.sum(-1, keepdims=True)),
    }


def study(name: str, count: int, tokens: int, seed: int) -> dict:
    """Rates and sizes for one router."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), hash_of(name)), count)
    asked = ROUTERS[name]
    kind = "loss" if "aux_loss_coef" in asked else "bias" if "bias" in asked else "none"
    # Every setting as a number, so that one compiled function serves all routers of a kind.
    router = dict.fromkeys(SETTINGS, 0.0) | asked
    parts = [replicates(keys[i : i + CHUNK], kind, tokens, router) for i in range(0, count, CHUNK)]
    found = {k: np.concatenate([np.asarray(part[k], float) for part in parts]) for k in parts[0]}
    quantile = stats.t.ppf(0.975, TEXTS - 1)
    row: dict = {"router": name, "replicates": count, **ROUTERS[name]}
    for null in ("permutation", "formula"):
        excess, error = found[null], found[f"{null}_error"]
        known = np.isfinite(excess) & np.isfinite(error)
        share = float(np.mean(known & (np.abs(excess) > quantile * error)))
        row[null] = {
            "detected": share,
            "above": float(np.mean(known & (excess > quantile * error))),
            "monte_carlo_error": float(np.sqrt(share * (1 - share) / count)),
            "median_excess": float(np.median(excess[known])) if known.any() else None,
            "median_error": float(np.median(error[known])) if known.any() else None,
            "no_answer": float(np.mean(~known)),
        }
    row["median_congestion"] = float(np.nanmedian(found["congestion"]))
    row["median_entropy"] = float(np.median(found["entropy"]))
    return row


def hash_of(name: str) -> int:
    """A number that is the same in every process, unlike `hash`."""
    return sum(place * ord(letter) for place, letter in enumerate(name, 1))


def markdown(record: dict) -> str:
    """One line per router."""
    columns = {
        "router": "router",
        "entropy": "{median_entropy:.4f}",
        "signed γ": "{median_congestion:.1f}",
        "excess over permutation": "{permutation[median_excess]:.1f} ± {permutation[median_error]:.1f}",
        "detected": "{permutation[detected]:.3f} ± {permutation[monte_carlo_error]:.3f}",
        "of it above 0": "{permutation[above]:.3f}",
        "excess over dispersion": "{formula[median_excess]:.1f}",
        "that detected": "{formula[detected]:.3f}",
        "no answer": "{permutation[no_answer]:.3f}",
    }
    return table(record["rows"], columns) + "\n"


def main(
    json_path: JsonFile = None,
    count: Annotated[int, typer.Option("--replicates", help="per router", min=50)] = 200,
    tokens: Annotated[int, typer.Option("--tokens", help="per text")] = TOKENS,
    seed: int = 0,
) -> None:
    """Detection rates of the 95% paired interval; with --json FILE a Markdown table beside it."""
    console, rows, begun = Console(width=150), [], time.perf_counter()
    for name in ROUTERS:
        rows.append(study(name, count, tokens, seed))
        console.print(f"{name}: {time.perf_counter() - begun:.0f} s so far")
    record = keep(
        json_path,
        markdown,
        **{"seed": seed, "experts": EXPERTS, "top_k": TOP_K, "texts": TEXTS, "tokens": tokens},
        **{"level": 0.95, "seconds": time.perf_counter() - begun, "rows": rows},
    )
    console.print(markdown(record), soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
