"""Theorem 5.8 on the bundled traces: would it matter if routers looked ahead, and does eps_l tell?

    python -m benchmarks.studies.coupled_layers --json benchmarks/results/coupled_layers.json

At the checkpoints with token logits: each layer's own equilibrium against the coupled one, both
against the observed load, and both meanings of eps_l (`mfgjax.scope.coupling`) correlated with the
error of the fit at the mean logit. Writes the Markdown table beside the JSON.
"""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import typer
from scipy.stats import pearsonr

from benchmarks.record import JsonFile, keep
from mfgjax.bundled import bundled_runs
from mfgjax.dynamics.layer_estimates import estimate_layers
from mfgjax.equilibrium import Status
from mfgjax.estimate import unit_weights
from mfgjax.report.tables import markdown
from mfgjax.scope.continuation import estimate_continuation
from mfgjax.scope.coupling import estimate_coupling
from mfgjax.trace import TokenTrace, read_trace
from mfgjax.trace.statistics import statistics_of

MIN_TOKENS = 10
SHOWN = (
    "congestion",
    "spread",
    "distance",
    "bound_without_contraction",
    "own_error",
    "coupled_error",
    "mean_quality_error",
)


def compare(name: str, trace: TokenTrace) -> list[dict]:
    """One row per layer of one checkpoint."""
    statistics = statistics_of(trace).statistics
    every = unit_weights(trace.metadata.text_count).astype(statistics.logit_sum.dtype)
    congestion = estimate_layers(statistics, every, trace.metadata.top_k).congestion
    found = estimate_coupling(trace, every, congestion, min_tokens=MIN_TOKENS)
    assert int(jnp.max(found.status)) == Status.CONVERGED
    measured = np.asarray(estimate_continuation(trace, every, min_tokens=MIN_TOKENS).largest[0])
    rows = []
    for layer in range(len(trace.metadata.layers)):
        row = {"run": name, "step": trace.metadata.step, "layer": layer}
        row |= {field: float(getattr(found, field)[0, layer]) for field in SHOWN}
        row["section_6_6_spread"] = float(measured[layer]) if layer < len(measured) else None
        rows.append(row)
    return rows


def summary(rows: list[dict]) -> dict:
    """What the table is read for; the last layer has nothing to look ahead to."""
    pairs = [row for row in rows if row["section_6_6_spread"] is not None]
    out: dict = {
        "pairs of layers": len(pairs),
        "coupled equilibrium farther from the observed load": sum(
            row["coupled_error"] > row["own_error"] for row in pairs
        ),
        "beyond eps/2": sum(row["distance"] > row["bound_without_contraction"] for row in pairs),
    }
    # The runs differ in M, which moves eps and error alike: within a run says more than pooled.
    groups = {"both runs pooled": pairs}
    groups |= {name: [r for r in pairs if r["run"] == name] for name in bundled_runs()}
    for eps in ("spread", "section_6_6_spread"):
        for group, members in groups.items():
            error = [row["mean_quality_error"] for row in members]
            r, p = np.asarray(pearsonr([row[eps] for row in members], error))
            said = f"r = {r:.2f}, p = {p:.3f}, {len(members)} pairs"
            out[f"correlation of {eps} with the fit error, {group}"] = said
    return out


def main(
    json_path: JsonFile = None,
) -> None:
    """Compare on every bundled checkpoint that has token logits."""
    rows = []
    for name, run in bundled_runs().items():
        traces = [read_trace(path) for path in run.traces.glob("*.tokens.safetensors")]
        for trace in sorted(traces, key=lambda t: t.metadata.step or 0):
            assert isinstance(trace, TokenTrace)
            rows += compare(name, trace)
    found = summary(rows)
    text = markdown(pd.DataFrame(rows), "Coupled layers against layers on their own")
    text += "\n" + "\n".join(f"* {key}: {value}" for key, value in found.items()) + "\n"
    print(text)
    keep(json_path, lambda _: text, rows=rows, summary=found)


if __name__ == "__main__":
    typer.run(main)
