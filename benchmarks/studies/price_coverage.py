"""Does the interval of the price's slope on the load cover? Routers at the fixed point of a leaky price.

    python -m benchmarks.studies.price_coverage --json FILE

The population is 1,000 texts of 200 tokens. The price solves `b = -gamma (f - 1/M)` for the population's
load f under the top-K of `z + b`; a replicate draws texts from it with replacement. The price is read
from the choices of the first `--revealed` replicates (choices of the drawn texts, float64), and taken as
known in the others: it is the same router. The true value is the population's own slope.
"""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep, table
from mfgjax.price.bounds import close_bounds, has_conflict
from mfgjax.price.slope import PriceSlope, fit_price_slope
from mfgjax.trace.choice_bound import SelectionRule, choice_bound

EXPERTS, TOP_K, TEXTS, TOKENS = 64, 8, 1000, 200
DOSES = (5.0, 20.0, 80.0)
SIZES = (50, 400)
_STEPS = 24


def logits_of(case: str, rng: np.random.Generator) -> np.ndarray:
    """`[text, token, expert]` float32 of a population."""
    shape = (TEXTS, TOKENS, EXPERTS)
    quality = 0.3 * rng.standard_normal(EXPERTS).astype(np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if case == "heavy-tailed":  # Student t with 3 degrees of freedom
        noise /= np.sqrt(rng.gamma(1.5, 1 / 1.5, shape)).astype(np.float32)
    elif case == "skewed":
        noise = rng.standard_exponential(shape, dtype=np.float32) - 1
    elif case == "correlated":  # half of the variance in 8 directions
        basis = rng.standard_normal((8, EXPERTS)).astype(np.float32) / 8**0.5
        factors = rng.standard_normal((TEXTS, TOKENS, 8)).astype(np.float32)
        noise = noise / 2**0.5 + factors @ basis / 2**0.5
    elif case == "clustered":  # half of the variance between texts
        noise = (
            noise / 2**0.5 + rng.standard_normal((TEXTS, 1, EXPERTS)).astype(np.float32) / 2**0.5
        )
    elif case != "gaussian":
        raise ValueError(f"no case {case!r}")
    return quality + noise


CASES = ("gaussian", "heavy-tailed", "skewed", "correlated", "clustered")


@jax.jit
def choose(logits, bias):
    return jax.lax.top_k(logits + bias[None, None], TOP_K)[1]


@jax.jit
def load_of(logits, bias):
    chosen = choose(logits, bias)
    count = jnp.zeros(EXPERTS, jnp.int32).at[chosen.reshape(-1)].add(1)
    return count.astype(jnp.float32) / (TEXTS * TOKENS * TOP_K)


def price_at_rest(logits, congestion: float) -> np.ndarray:
    """The bias that the leaky rule comes to."""
    bias, rate = jnp.zeros(EXPERTS, jnp.float32), min(0.6, 12.0 / congestion)
    for step in range(_STEPS):
        aim = -congestion * (load_of(logits, bias) - 1 / EXPERTS)
        bias = bias + rate * (0.8 ** max(step - 12, 0)) * (aim - bias)
    return np.asarray(bias)


@partial(jax.jit, static_argnames="rule")
def reveal(logits, choices, rule):
    tokens = choices.shape[0] * choices.shape[1]
    bound = choice_bound(
        logits.reshape(tokens, EXPERTS),
        choices.reshape(tokens, TOP_K),
        jnp.zeros(tokens, jnp.int32),
        jnp.zeros((tokens, EXPERTS), jnp.float32),
        1,
        rule,
    )[0]
    closed = close_bounds(bound)
    return closed, has_conflict(closed)


def study(case: str, replicates: int, revealed: int, seed: int):
    """Rows of one case."""
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(logits_of(case, rng))
    for congestion in DOSES:
        bias = price_at_rest(logits, congestion)
        chosen = np.asarray(choose(logits, jnp.asarray(bias)))
        count = np.zeros((TEXTS, EXPERTS))
        np.add.at(count, (np.arange(TEXTS)[:, None, None], chosen), 1)
        load = count.sum(0) / count.sum()
        centred = load - load.mean()
        truth = -(bias * centred).sum() / (centred**2).sum()
        for texts in SIZES:
            fits, off = [], 0.0
            for replicate in range(replicates):
                drawn = rng.integers(0, TEXTS, texts)
                price, half, used = -bias, np.zeros(EXPERTS), np.ones(EXPERTS, bool)
                if replicate < revealed:
                    closed, conflict = reveal(
                        logits[drawn], jnp.asarray(chosen[drawn]), SelectionRule()
                    )
                    closed = np.asarray(closed, float)
                    assert not conflict
                    used = count[drawn].sum(0) > 0
                    inner = closed[np.ix_(used, used)]
                    low, high = inner.mean(1), -inner.mean(0)
                    price = np.zeros(EXPERTS)
                    price[used], half[used] = -(low + high) / 2, (high - low) / 2
                    off = max(off, float(half.max()))
                fits.append(
                    fit_price_slope(price[None], half[None], used[None], count[drawn][:, None])
                )
            yield {
                "case": case,
                "congestion": congestion,
                "true slope": float(truth),
                "texts": texts,
                "tokens per text": TOKENS,
                "replicates": replicates,
                "price read from choices in": min(revealed, replicates),
                "largest half width of a price": off,
                **coverage(np.concatenate([f.interval for f in fits]), truth),
                **medians(fits),
            }


def coverage(interval: np.ndarray, truth: float) -> dict:
    """How often `interval [replicate, end]` holds the truth, misses it, ends anywhere, and its width."""
    low, high = interval.T
    bounded = np.isfinite(low) & np.isfinite(high)
    return {
        "coverage": float(((low <= truth) & (truth <= high)).mean()),
        "below": float((high < truth).mean()),
        "above": float((low > truth).mean()),
        "bounded": float(bounded.mean()),
        "median width": float(np.median((high - low)[bounded])) if bounded.any() else None,
    }


def medians(fits: list[PriceSlope]) -> dict:
    """Of all replicates' estimates."""
    named = {"corrected": "congestion", "uncorrected": "uncorrected", "signal": "signal"}
    return {
        f"median {name}": float(np.nanmedian(np.concatenate([getattr(f, field) for f in fits])))
        for name, field in named.items()
    }


def tell(
    rows: Iterable[dict], seed: int, json_path: Path | None, markdown: Callable[[dict], str]
) -> None:
    """Print each row as it comes; keep what there is in the file."""
    console, found = Console(), []
    for row in rows:
        found.append(row)
        console.print_json(data=row)
        keep(json_path, markdown, seed=seed, rows=found)


CASE_COLUMNS = {
    "logits": "case",
    "texts x tokens": "{texts} x {tokens per text}",
    "γ set": "{congestion:g}",
}
COVERED = {
    "corrected": "{median corrected:.1f}",
    "signal": "{median signal:.2f}",
    "coverage": "{coverage:.3f}",
    "bounded": "{bounded:.3f}",
}


def markdown(record: dict) -> str:
    """The table of the docs."""
    squares = {"least squares": "{median uncorrected:.1f}"}
    width = {"largest half width of a price": "{largest half width of a price:.4f}"}
    return table(record["rows"], CASE_COLUMNS | squares | COVERED | width)


def main(
    json_path: JsonFile = None,
    replicates: Annotated[int, typer.Option(min=1)] = 2000,
    revealed: Annotated[int, typer.Option(min=0)] = 50,
    seed: int = 0,
) -> None:
    """Coverage of a nominal 95% by case, dose and number of texts."""
    rows = (row for case in CASES for row in study(case, replicates, revealed, seed))
    tell(rows, seed, json_path, markdown)


if __name__ == "__main__":
    typer.run(main)
