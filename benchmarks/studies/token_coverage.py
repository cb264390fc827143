"""Does the interval of the token-level congestion cover? Routers at the fixed point of a leaky price.

    python -m benchmarks.studies.token_coverage --json FILE

Populations as in `benchmarks.studies.price_coverage`: 1,000 texts of 200 tokens, from which a replicate draws
texts with replacement. The true value is `f' J p / f' J f` of the whole population. In the first
`--whole` replicates of a row `token_congestion_interval` runs on the drawn tokens as a user runs it: it
reads the price from their choices and J from their logits. The others take the price as known and sum J
text by text at the population's temperature. How much further out the ends of the first are is in the
row: what the price may be off within its bounds widens them.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.record import JsonFile, table
from benchmarks.studies.price_coverage import (
    CASE_COLUMNS,
    CASES,
    COVERED,
    EXPERTS,
    SIZES,
    TEXTS,
    TOKENS,
    TOP_K,
    choose,
    coverage,
    logits_of,
    medians,
    tell,
)
from mfgjax.price.slope import PriceSlope, fit_price_slope
from mfgjax.price.smooth import soft_top_k
from mfgjax.price.token_interval import MOST_TOKENS, SOFTNESS, token_congestion_interval
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace

DOSES = (0.0, 5.0, 20.0, 80.0)
_AT_ONCE = 50
_FEW = TEXTS // 4


def count_of(logits, bias) -> np.ndarray:
    """`[text, expert]`: times each was chosen."""
    chosen = np.asarray(choose(logits, jnp.asarray(bias, jnp.float32)))
    count = np.zeros((len(chosen), EXPERTS))
    np.add.at(count, (np.arange(len(chosen))[:, None, None], chosen), 1)
    return count


def price_at_rest(logits, congestion: float) -> tuple[np.ndarray, np.ndarray]:
    """The bias that the leaky rule comes to, and the counts under it.

    As in `benchmarks.studies.price_coverage`, most of the way on a quarter of the texts.
    """
    bias, rate = np.zeros(EXPERTS, np.float32), min(0.6, 12.0 / max(congestion, 1.0))
    for step in range(24 if congestion else 0):
        count = count_of(logits if step >= 18 else logits[:_FEW], bias).sum(0)
        aim = -congestion * (count / count.sum() - 1 / EXPERTS)
        bias = (bias + rate * 0.8 ** max(step - 14, 0) * (aim - bias)).astype(np.float32)
    return bias, count_of(logits, bias)


@jax.jit
def _edges(score, temperature):
    """Sums over the tokens of a text: the parts of J that add up."""
    member = soft_top_k(score, TOP_K, temperature)
    slope = member * (1 - member) / temperature
    within = slope / jnp.sqrt(jnp.maximum(slope.sum(-1, keepdims=True), 1e-30))
    return jnp.einsum("nti,ij->nij", slope, jnp.eye(EXPERTS, dtype=score.dtype)) - jnp.einsum(
        "nti,ntj->nij", within, within
    )


def metric_by_text(logits, bias, every: int) -> np.ndarray:
    """`[text, expert, expert]`, from every n-th token; their sum over tokens times K is J."""
    kept = logits[:, ::every]
    temperature = SOFTNESS * kept.std(-1).mean()
    parts = [
        np.asarray(_edges(kept[at : at + 100] + bias, temperature)) for at in range(0, TEXTS, 100)
    ]
    return np.concatenate(parts) / (kept.shape[1] * TOP_K)


def as_trace(logits, choices) -> TokenTrace:
    """One layer of drawn texts."""
    logits, choices = logits.reshape(-1, 1, EXPERTS), choices.reshape(-1, 1, TOP_K)
    bias = np.zeros((1, EXPERTS))  # says that there is one; its values are not read
    return drawn_trace(logits, choices, len(logits) // TOKENS, bias, score="logits")


def replicated(price, count, metric, drawn: np.ndarray) -> list[PriceSlope]:
    """The interval of many draws of texts, the price taken as known."""
    fits = []
    for rows in np.split(drawn, range(_AT_ONCE, len(drawn), _AT_ONCE)):
        by_text = count[rows].swapaxes(0, 1)  # [text, draw, expert]: draws in place of layers
        weight = np.stack([np.bincount(row, minlength=TEXTS) for row in rows]) / rows.shape[1]
        mean = (weight @ metric.reshape(TEXTS, -1)).reshape(-1, EXPERTS, EXPERTS)
        still = np.zeros((len(rows), EXPERTS))
        known = np.broadcast_to(price, still.shape)
        fits.append(fit_price_slope(known, still, still == 0, by_text, metric=mean))
    return fits


def study(case: str, replicates: int, whole: int, seed: int):
    """Rows of one case."""
    rng = np.random.default_rng(seed)
    logits = logits_of(case, rng)
    for congestion in DOSES:
        bias, count = price_at_rest(logits, congestion)
        chosen = np.asarray(choose(logits, jnp.asarray(bias)))
        load = count.sum(0) / count.sum() - 1 / EXPERTS
        all_tokens = metric_by_text(logits, bias, 1)
        pushed = all_tokens.mean(0) @ load
        truth = float(-(pushed @ bias) / (pushed @ load))
        for texts in SIZES:
            every = -(-texts * TOKENS // MOST_TOKENS)
            metric = all_tokens if every == 1 else metric_by_text(logits, bias, every)
            drawn = rng.integers(0, TEXTS, (replicates, texts))
            fits = replicated(-bias, count, metric, drawn)
            interval, apart = np.concatenate([f.interval for f in fits]), []
            for row in range(min(whole, replicates)):
                found = token_congestion_interval(
                    as_trace(logits[drawn[row]], chosen[drawn[row]])
                ).interval[0]
                if np.isfinite(interval[row]).all():
                    apart += [interval[row, 0] - found[0], found[1] - interval[row, 1]]
                interval[row] = found
            yield {
                "case": case,
                "congestion": congestion,
                "true value": truth,
                "texts": texts,
                "tokens per text": TOKENS,
                "replicates": replicates,
                "from tokens in": min(whole, replicates),
                "ends further out by": [min(apart), max(apart)] if apart else None,
                **coverage(interval, truth),
                **medians(fits),
            }


def markdown(record: dict) -> str:
    """The table of the docs."""
    columns = {
        **CASE_COLUMNS,
        "true value": lambda row: f"{abs(row['true value']):.1f}",  # none is negative but -0
        "uncorrected": "{median uncorrected:.1f}",
        **COVERED,
        "median width": "{median width:.2f}",
        "each end further out from tokens": (
            "{ends further out by[0]:.2f} to {ends further out by[1]:.2f}"
        ),
    }
    return table(record["rows"], columns)


def main(
    json_path: JsonFile = None,
    replicates: Annotated[int, typer.Option(min=1)] = 1000,
    whole: Annotated[int, typer.Option(min=0)] = 2,
    seed: int = 0,
) -> None:
    """Coverage of a nominal 95% by case, dose and number of texts."""
    rows = (row for case in CASES for row in study(case, replicates, whole, seed))
    tell(rows, seed, json_path, markdown)


if __name__ == "__main__":
    typer.run(main)
