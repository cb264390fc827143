"""How often intervals of held-out differences hold the mean difference, at and away from no difference.

    python -m benchmarks.studies.refit_coverage --json FILE

Many traces from one simulated top-2 router of 8, two layers, 30 texts of 20 tokens. The truth is the mean
over these traces of the difference that the comparison reports (held-out L1 depends on the sample
size, so there is no truth without one). Two intervals: every model fitted anew (`refitted_differences`)
and fixed fits (`paired_differences`). Routers: uniform, small and large quality spread, texts that differ.
"""

from typing import Annotated

import jax
import numpy as np
import typer

from benchmarks.record import JsonFile, keep, table
from mfgjax.comparison import compare_static
from mfgjax.comparison.refit import refit_static
from mfgjax.report.sections.held_out import paired_differences, refitted_differences
from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import TokenTrace

TEXTS, TOKENS, EXPERTS, TOP_K, REFITS = 30, 20, 8, 2, 20
ROUTERS = {
    "uniform": (0.0, 0.0),
    "quality spread 0.1": (0.1, 0.0),
    "quality spread 0.4": (0.4, 0.0),
    "quality spread 0.4, texts differ by 0.7": (0.4, 0.7),
}
PAIRS = [
    ("MFG", "uniform"),
    ("seen load", "uniform"),
    ("temperature softmax", "uniform"),
    ("MFG", "temperature softmax"),
    ("MFG", "seen load"),
]


def draw_trace(rng: np.random.Generator, quality: np.ndarray, text_effect: float) -> TokenTrace:
    """Tokens with noise of standard deviation 1.5 and effects of their text."""
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)
    noise = 1.5 * rng.standard_normal((len(text), 2, EXPERTS))
    effect = text_effect * rng.standard_normal((TEXTS, 2, EXPERTS))[text]
    logits = (quality + noise + effect).astype(np.float32)
    return drawn_trace(logits, np.argsort(-logits, -1)[..., :TOP_K], TEXTS)


def study(name: str, count: int) -> list[dict]:
    """Coverage of both intervals for every pair of models."""
    spread, text_effect = ROUTERS[name]
    rng = np.random.default_rng(0)
    quality = spread * rng.standard_normal((2, EXPERTS))
    anew, fixed = [], []
    for seed in range(count):
        trace = draw_trace(rng, quality, text_effect)
        comparison = compare_static(trace, types=(), resamples=100, seed=seed)
        refits = refit_static(trace, types=(), refits=REFITS, splits=0, seed=seed)
        for kept, frame in (
            (anew, refitted_differences(comparison, refits, PAIRS)),
            (fixed, paired_differences(comparison, PAIRS)),
        ):
            kept.append(frame.query("layers == 'all'")[["difference", "low", "high"]].to_numpy())
    anew, fixed = np.stack(anew), np.stack(fixed)
    truth = anew[:, :, 0].mean(0)
    inside = [((x[:, :, 1] <= truth) & (truth <= x[:, :, 2])).sum(0) for x in (anew, fixed)]
    return [
        {
            "router": name,
            "model": model,
            "reference": reference,
            "traces": count,
            "mean_difference": truth[i],
            "refitted_held_it": int(inside[0][i]),
            "fixed_held_it": int(inside[1][i]),
        }
        for i, (model, reference) in enumerate(PAIRS)
    ]


def markdown(record: dict) -> str:
    """One line per router and pair of models."""
    columns = {
        "router": "router",
        "difference of held-out L1": "{model} less {reference}",
        "mean": "{mean_difference:+.3f}",
        "fitted anew, held it": "{refitted_held_it} of {traces}",
        "fits fixed, held it": "{fixed_held_it} of {traces}",
    }
    return table(record["rows"], columns)


def main(
    json_path: JsonFile = None,
    count: Annotated[int, typer.Option("--traces", help="per router", min=10)] = 60,
) -> None:
    """Count both intervals; with --json FILE keep the counts."""
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in ROUTERS:
        for row in study(name, count):
            rows.append(row)
            print(
                f"{name}: {row['model']} - {row['reference']}: {row['mean_difference']:+.3f}, refitted "
                f"{row['refitted_held_it']}, fixed {row['fixed_held_it']} of {count}",
                flush=True,
            )
    keep(json_path, markdown, rows=rows)


if __name__ == "__main__":
    typer.run(main)
