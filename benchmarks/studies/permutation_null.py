"""How much of the bundled runs' congestion each expert's own logits explain.

    python -m benchmarks.studies.permutation_null

At the checkpoints with token logits: the signed estimate per layer, the permutation null (every
expert's logits shuffled over tokens on their own, top-k and fit again; mean over shuffles), the
dispersion null, and the excess with its interval, corrected for noise (`permutation_excess`). Writes benchmarks/results/permutation_null.{json,md}.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.record import RESULTS, Cell, keep, table
from mfgjax.bundled import bundled_runs
from mfgjax.estimate import (
    estimate_dispersion,
    estimate_load,
    estimate_mean_quality,
    fit_congestion,
    null_congestion,
    permutation_excess,
    unit_weights,
)
from mfgjax.estimate.null.own_logits import permuted_load
from mfgjax.trace import TokenTrace, read_trace
from mfgjax.trace.statistics import statistics_of


def compare(trace: TokenTrace, shuffles: int) -> dict[str, list[float]]:
    """Signed estimate and both nulls of one checkpoint, per layer."""
    statistics = statistics_of(trace).statistics
    weights = unit_weights(trace.metadata.text_count)
    tokens, logit_sum = statistics.token_count, statistics.logit_sum
    quality = estimate_mean_quality(weights, tokens, logit_sum)[0]
    load = estimate_load(weights, statistics.dispatch_count)[0]
    spread = estimate_dispersion(weights, tokens, logit_sum, statistics.centred_square_sum)[0]
    top_k, experts = trace.metadata.top_k, trace.metadata.experts
    logits = jnp.asarray(trace.logits, jnp.float32)
    nulls = np.stack(
        [
            fit_congestion(quality, permuted_load(key, logits, top_k), "kl").congestion
            for key in jax.random.split(jax.random.key(0), shuffles)
        ]
    )
    excess = permutation_excess(trace)
    return {
        "excess": excess.excess.tolist(),
        "excess_low": excess.excess_interval[0].tolist(),
        "excess_high": excess.excess_interval[1].tolist(),
        "signed": np.asarray(fit_congestion(quality, load, "kl").congestion).tolist(),
        "permutation": nulls.mean(0).tolist(),
        "permutation_spread": nulls.std(0).tolist(),
        "dispersion": np.asarray(null_congestion(spread, top_k, experts)).tolist(),
    }


def markdown(record: dict) -> str:
    """One line per checkpoint, layers side by side."""

    def cells(name: str) -> Cell:
        return lambda row: ", ".join(f"{value:.1f}" for value in row[name])

    def excess(row: dict) -> str:
        ends = zip(row["excess"], row["excess_low"], row["excess_high"], strict=True)
        return "; ".join(f"{round(x)} [{round(low)}, {round(high)}]" for x, low, high in ends)

    columns = {
        "run": "run",
        "step": "step",
        "signed γ, layers 0 to 3": cells("signed"),
        "permutation null": cells("permutation"),
        "dispersion null": cells("dispersion"),
        "excess over permutation, 95%": excess,
    }
    return table(record["rows"], columns) + "\n"


def main(shuffles: Annotated[int, typer.Option(help="Shuffles to average.")] = 20) -> None:
    """Compare on every bundled checkpoint that has token logits."""
    rows = []
    for name, run in bundled_runs().items():
        traces = [read_trace(path) for path in run.traces.glob("*.tokens.safetensors")]
        for trace in sorted(traces, key=lambda t: t.metadata.step or 0):
            assert isinstance(trace, TokenTrace)
            rows.append({"run": name, "step": trace.metadata.step, **compare(trace, shuffles)})
    print(markdown(keep(RESULTS / "permutation_null.json", markdown, rows=rows)), end="")


if __name__ == "__main__":
    typer.run(main)
