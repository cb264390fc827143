"""What a fit makes of a known truth: recovery under noise, several minima, finite tokens, the null.

    python -m benchmarks.studies.recovery --json FILE

Four studies of issue size: (1) the paper's synthetic recovery (arXiv 2604.04230, section 6.5); (2) how
often the L1 residual has several minima, and how wrong a local search is then; (3) bias from finite
tokens; (4) what excess congestion sees of a selection bias and of a trained auxiliary loss.
"""

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console
from scipy.optimize import minimize_scalar

from benchmarks.congestion import instances, value
from benchmarks.record import JsonFile, keep
from mfgjax.estimate import fit_congestion, null_congestion
from mfgjax.estimate.null.own_logits import permuted_load
from mfgjax.simulate.top_k_router import (
    balance_by_bias,
    balance_by_loss,
    choose_experts,
    draw_logits,
)

EXPERTS, TOP_K = 64, 8
fit = jax.jit(fit_congestion, static_argnames=("objective", "count_minima"))


def equilibria(rng, congestion, count, spread):
    load = np.exp(spread * rng.normal(size=(count, EXPERTS)))
    load /= load.sum(-1, keepdims=True)
    quality = np.log(load) + congestion * load
    return quality - quality.mean(-1, keepdims=True), load


def recovery(rng, count=200, spread=0.3):
    rows = []
    for noise in (0.0, 0.1, 0.3):
        for objective in ("l1", "kl"):
            errors = []
            for congestion in (5, 10, 15, 20, 30, 40):
                quality, load = equilibria(rng, congestion, count, spread)
                quality = quality + noise * rng.normal(size=quality.shape)
                found = fit(jnp.asarray(quality), jnp.asarray(load), objective, count_minima=False)
                errors.append(np.abs(np.asarray(found.congestion) - congestion) / congestion)
            rows.append(
                {
                    "sigma_q": noise,
                    "objective": objective,
                    "median_relative_error": float(np.median(errors)),
                    "mean_relative_error": float(np.mean(errors)),
                    "paper_median": {0.0: None, 0.1: 0.14, 0.3: 0.63}[noise],
                }
            )
    return rows


def local_search(quality, load) -> tuple[float, float]:
    """What scipy's bounded search returns on [0, 400]: congestion and residual."""
    found = minimize_scalar(
        lambda g: value("l1", quality, load, g), bounds=(0, 400), method="bounded"
    )
    at = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    return at, float(value("l1", quality, load, at))


def multimodality(rng, count=400):
    rows = []
    kinds = {
        "random, M = 8": (rng.normal(size=(count, 8)), rng.dirichlet(np.full(8, 3.0), count)),
        "random, M = 64": (rng.normal(size=(count, 64)), rng.dirichlet(np.full(64, 3.0), count)),
        "router-like, M = 64": instances(count),
    }
    for name, (quality, load) in kinds.items():
        found = fit(jnp.asarray(quality), jnp.asarray(load), "l1")
        local = np.array([local_search(q, mu) for q, mu in zip(quality, load, strict=True)])
        excess = local[:, 1] - np.asarray(found.residual)
        off = np.abs(local[:, 0] - np.asarray(found.congestion))
        wrong = excess > 1e-4
        rows.append(
            {
                "instances": name,
                "several_minima": float((np.asarray(found.minima) > 1).mean()),
                "at_boundary": float(np.asarray(found.at_boundary).mean()),
                "not_certified": int((np.asarray(found.status) != 0).sum()),
                "local_search_wrong": float(wrong.mean()),
                "median_error_where_wrong": float(np.median(off[wrong])) if wrong.any() else 0.0,
            }
        )
    return rows


def finite_tokens(rng, count=200, congestion=20.0, spread=0.2):
    """Independent dispatches, quality known: the bias is that of the load's noise alone."""
    rows = []
    for dispatches in (1_000, 5_384, 20_000, 100_000, 1_000_000):
        quality, load = equilibria(rng, congestion, count, spread)
        sampled = np.stack([rng.multinomial(dispatches, mu) for mu in load]) / dispatches
        found = fit(jnp.asarray(quality), jnp.asarray(sampled), "kl", count_minima=False)
        # Attenuation: gamma + M times the share of the variance of the load that is not noise.
        signal, noise = load.var(-1), (load * (1 - load)).mean(-1) / dispatches
        predicted = ((congestion + EXPERTS) * signal / (signal + noise) - EXPERTS).mean()
        observed = np.maximum(sampled.var(-1) - (sampled * (1 - sampled)).mean(-1) / dispatches, 0)
        share = np.maximum(observed / sampled.var(-1), 0.05)
        corrected = (np.asarray(found.congestion) + EXPERTS) / share - EXPERTS
        rows.append(
            {
                "dispatches": dispatches,
                "mean_estimate": float(np.mean(found.congestion)),
                "predicted": float(predicted),
                "corrected_median": float(np.median(corrected)),
                "corrected_spread": float(np.subtract(*np.percentile(corrected, [75, 25])) / 1.349),
            }
        )
    return rows


def balancing(seed=0, tokens=10_000, sigma=2.0, replicates=3):
    """Excess congestion over both nulls, with none, with half and full bias, with a trained loss."""
    rows = []
    for name in ("nothing", "half bias", "full bias", "auxiliary loss 0.1", "auxiliary loss 1"):
        excess, over, entropy = [], [], []
        for replicate in range(replicates):
            keys = jax.random.split(jax.random.key(seed + replicate), 4)
            quality = 0.3 * jax.random.normal(keys[0], (EXPERTS,), jnp.float32)
            if name.startswith("auxiliary"):
                strength = float(name.split()[-1])
                quality = balance_by_loss(
                    keys[3], quality, sigma, TOP_K, strength, tokens=2048, steps=20
                )
            logits = draw_logits(keys[1], quality, sigma, tokens)
            bias = None
            if name.endswith("bias"):
                share = 0.5 if name.startswith("half") else 1.0
                bias = share * balance_by_bias(logits[:4096], TOP_K, steps=60)
            chosen = choose_experts(logits, TOP_K, bias)
            load = jnp.zeros(EXPERTS, jnp.float32).at[chosen.ravel()].add(1) / chosen.size
            shuffled = permuted_load(keys[2], logits[:, None, :], TOP_K)[0]
            pair = fit(
                jnp.stack([logits.mean(0)] * 2),
                jnp.stack([load, shuffled]),
                "kl",
                count_minima=False,
            ).congestion
            spread = jnp.asarray(logits.std(0).mean())
            excess.append(float(pair[0] - null_congestion(spread, TOP_K, EXPERTS)))
            over.append(float(pair[0] - pair[1]))
            entropy.append(float(-(load * jnp.log(load)).sum() / np.log(EXPERTS)))
        rows.append(
            {
                "balancing": name,
                "excess_over_formula": float(np.mean(excess)),
                "excess_over_permutation": float(np.mean(over)),
                "permutation_excess_spread": float(np.std(over, ddof=1)),
                "entropy": float(np.mean(entropy)),
            }
        )
    return rows


def main(
    json_path: JsonFile = None,
    seed: int = 0,
) -> None:
    """Run all four studies."""
    jax.config.update("jax_enable_x64", True)
    rng, console = np.random.default_rng(seed), Console(width=110)
    studies = {
        "recovery": lambda: recovery(rng),
        "several minima": lambda: multimodality(rng),
        "finite tokens": lambda: finite_tokens(rng),
        "balancing": lambda: balancing(seed),
    }
    record: dict = {"seed": seed}
    for name, study in studies.items():
        record[name] = study()
        console.print(name)
        for row in record[name]:
            console.print("  ", row)
        keep(json_path, **record)


if __name__ == "__main__":
    typer.run(main)
