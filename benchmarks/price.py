"""What the revealed price costs: `python -m benchmarks.price --json FILE`.

A pass over tokens of 256 experts, top-8, in batches that are made and dropped (memory does not grow with
tokens), and what a run of 20 checkpoints x 16 layers x 64 experts takes once its bounds are in the traces:
closing them, slopes with intervals, 2,000 resamples of 50 texts. Times are CPU seconds of the process:
other work on the machine does not count. Each is beside a simpler job on the same numbers that it
cannot beat: reading the scores once, in the same arithmetic.
"""

import resource
import time
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep
from mfgjax.price import fit_token_congestion
from mfgjax.price.bounds import reveal_from_bounds
from mfgjax.price.scores import Ranked
from mfgjax.price.slope import fit_price_slope, resample_price_slope
from mfgjax.price.token_congestion import fit_from_ranked
from mfgjax.trace.choice_bound import SelectionRule, choice_bound

BATCH = 16_384


def cpu(run):
    """The result of `run` and its CPU seconds."""
    start = time.process_time()
    found = jax.block_until_ready(run())
    return found, time.process_time() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def pass_over_tokens(tokens: int, experts: int, top_k: int) -> dict:
    """Bounds of `tokens` tokens, one layer, float32."""
    rule = SelectionRule()
    bias = 0.3 * jax.random.normal(jax.random.key(1), (experts,))
    scan = jax.jit(lambda z, b: (z + b[None]).max())
    zero, block = jnp.zeros((BATCH, experts)), jnp.zeros(BATCH, jnp.int32)

    @jax.jit
    def draw(key):
        logits = jax.random.normal(key, (BATCH, experts))
        return logits, jax.lax.top_k(logits + bias[None], top_k)[1]

    bound = jnp.full((experts, experts), -jnp.inf)
    taken, read, begin = 0.0, 0.0, peak_mb()
    batches = -(-tokens // BATCH)
    for batch in range(-1, batches):  # -1 compiles
        logits, choices = jax.block_until_ready(
            draw(jax.random.fold_in(jax.random.key(0), batch + 1))
        )
        found, seconds = cpu(
            lambda z=logits, c=choices: choice_bound(z, c, block, zero, 1, rule)[0]
        )
        _, once = cpu(lambda z=logits: scan(z, bias))
        if batch >= 0:
            taken, read = taken + seconds, read + once
            bound = jnp.maximum(bound, found)
        else:
            begin = peak_mb()
    price, closing = cpu(lambda: reveal_from_bounds(np.asarray(bound)[None], [rule], [""]))
    error = np.abs(price.bias[0] - np.asarray(bias - bias.mean())).max()
    compared = tokens * top_k * (experts - top_k)
    return {
        "job": f"{batches * BATCH:,} tokens, M = {experts}, K = {top_k}",
        "CPU seconds": taken,
        "nanoseconds per comparison": 1e9 * taken / compared,
        "of a scan of the scores": taken / read,
        "closing, of the pass": closing / taken,
        "peak MB above the start": peak_mb() - begin,
        "largest error of a price": float(error),
        "largest half width": float(price.half_width.max()),
    }


def run_of_checkpoints(cells: int, experts: int, texts: int, resamples: int) -> dict:
    """Everything after the traces, for all layers of all checkpoints at once."""
    rng = np.random.default_rng(0)
    bias = 0.3 * rng.standard_normal((cells, experts))
    bound = bias[:, :, None] - bias[:, None] - rng.exponential(0.01, (cells, experts, experts))
    share = np.exp(-bias)
    share /= share.sum(-1, keepdims=True)
    count = np.stack([rng.multinomial(200 * 8, share) for _ in range(texts)])
    weights = rng.multinomial(texts, np.full(texts, 1 / texts), resamples)
    rules, names = [SelectionRule()] * cells, [""] * cells
    reveal_from_bounds(bound, rules, names)  # compiles
    price, closing = cpu(lambda: reveal_from_bounds(bound, rules, names))
    half, used = np.nan_to_num(price.half_width), price.two_sided
    fit, slope = cpu(lambda: fit_price_slope(price.price, half, used, count))
    _, resample = cpu(lambda: resample_price_slope(fit, price.price, used, count, weights))
    return {
        "job": f"{cells} layers x checkpoints of M = {experts}, {texts} texts, {resamples:,} resamples",
        "CPU seconds": closing + slope + resample,
        "closing": closing,
        "slopes and intervals": slope,
        "resamples": resample,
    }


def token_game(tokens: int, experts: int, top_k: int) -> dict:
    """The exact fit of one layer."""
    rng = np.random.default_rng(0)
    score = rng.standard_normal((tokens, experts))
    total = score + 0.2 * rng.standard_normal(experts)
    choices = np.argpartition(-total, top_k, axis=-1)[:, :top_k]
    chosen = np.zeros(score.shape, bool)
    np.put_along_axis(chosen, choices, True, axis=-1)
    ranked = Ranked(score, choices, chosen, np.ones(score.shape, bool))
    found, taken = cpu(lambda: fit_from_ranked(ranked))
    _, once = cpu(lambda: np.partition(total, -top_k, axis=-1))
    return {
        "job": f"{fit_token_congestion.__name__}, {tokens:,} tokens, M = {experts}, K = {top_k}",
        "CPU seconds": taken,
        "of one top-K of all tokens": taken / once,
        "exact": found.exact,
        "residual": found.residual,
    }


def markdown(record: dict) -> str:
    """The table of the docs."""
    tokens, run, game = record["rows"]
    return (
        f"* {tokens['job']}, one layer: {tokens['nanoseconds per comparison']:.1f} ns of CPU per comparison "
        f"of a chosen expert with one left out, {tokens['of a scan of the scores']:.0f} times a scan of the "
        f"scores; closing is {tokens['closing, of the pass']:.0%} of the pass; "
        f"{tokens['peak MB above the start']:.0f} MB. Bound by the maximum by expert, a scatter. Prices "
        f"within {tokens['largest error of a price']:.1e} logits.\n"
        f"* {run['job']}: {run['CPU seconds']:.1f} CPU seconds, of which closing "
        f"{run['closing'] / run['CPU seconds']:.0%}, slopes and intervals "
        f"{run['slopes and intervals'] / run['CPU seconds']:.0%}, resamples (a matrix product) "
        f"{run['resamples'] / run['CPU seconds']:.0%}.\n"
        f"* {game['job']}: {game['of one top-K of all tokens']:.0f} times one top-K of all tokens."
    )


def main(
    json_path: JsonFile = None,
    tokens: Annotated[int, typer.Option(min=1)] = 1_000_000,
    cells: Annotated[int, typer.Option(min=1)] = 320,
) -> None:
    """One row per job."""
    console = Console()
    rows = []
    for job in (
        lambda: pass_over_tokens(tokens, 256, 8),
        lambda: run_of_checkpoints(cells, 64, 50, 2000),
        lambda: token_game(20_000, 64, 8),
    ):
        rows.append(job())
        console.print_json(data=rows[-1])
    keep(json_path, markdown, rows=rows)


if __name__ == "__main__":
    typer.run(main)
