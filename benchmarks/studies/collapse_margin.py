"""Would the distance to collapse be an alarm in `mfgjax track`? On the bundled runs, which never collapse.

    python -m benchmarks.studies.collapse_margin --json benchmarks/results/collapse_margin.json

Margin of every layer and checkpoint from mean logits, with the signed congestion as feedback, and with
the excess over the dispersion null in its place. A margin below 0 would be the alarm.
"""

from pathlib import Path

import jax
import numpy as np
import typer

from benchmarks.record import JsonFile, keep, table
from mfgjax.bifurcation import collapse_margin
from mfgjax.bundled import bundled_runs
from mfgjax.dynamics.layer_estimates import estimate_layers
from mfgjax.estimate import estimate_mean_quality, unit_weights
from mfgjax.trace import read_sweep

_margin = jax.jit(jax.vmap(collapse_margin))


def alarms(name: str, traces: Path) -> list[dict]:
    """One row per choice of feedback."""
    sweep = read_sweep(traces)
    margins: dict[str, list] = {"signed congestion": [], "excess over the null": []}
    largest = 0.0
    for index in range(len(sweep.labels)):
        statistics = jax.tree.map(lambda leaf: leaf[index], sweep.statistics)  # noqa: B023
        weights = unit_weights(statistics.token_count.shape[0]).astype(statistics.logit_sum.dtype)
        layers = estimate_layers(statistics, weights, sweep.checkpoints[0].top_k)
        tokens = statistics.token_count
        quality = estimate_mean_quality(weights, tokens, statistics.logit_sum)[0]
        signed = layers.signed[0]
        margins["signed congestion"].append(_margin(quality, signed).margin)
        margins["excess over the null"].append(
            _margin(quality, signed - layers.dispersion_null[0]).margin
        )
        largest = max(largest, float(layers.max_load.max()))
    rows = []
    for feedback, found in margins.items():
        values = np.array(found)
        rows.append(
            {
                "run": name,
                "feedback": feedback,
                "alarms": int((values < 0).sum()),
                "of": values.size,
                "alarms_at_initialisation": int((values[0] < 0).sum()),
                "lowest_margin": float(values.min()),
                "highest_margin": float(values.max()),
                "largest_load_ever": largest,
            }
        )
    return rows


def markdown(record: dict) -> str:
    """The table of the docs."""
    columns = {
        "run": "run",
        "feedback taken from": "feedback",
        "alarms": "{alarms} of {of}",
        "of them at initialisation": "alarms_at_initialisation",
        "margin": "{lowest_margin:.1f} to {highest_margin:.1f}",
        "largest load ever": "{largest_load_ever:.3f}",
    }
    return table(record["rows"], columns)


def main(
    json_path: JsonFile = None,
) -> None:
    """Count false alarms."""
    rows = [row for name, run in bundled_runs().items() for row in alarms(name, run.traces)]
    for row in rows:
        print(row)
    keep(json_path, markdown, rows=rows)


if __name__ == "__main__":
    typer.run(main)
