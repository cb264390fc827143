"""Token types by likelihood against k-means: `python -m benchmarks.studies.token_types`.

First on tokens whose three types are known, from well apart to overlapping: errors of what is recovered,
the number of types that each rule chooses, held-out differences. Then on every bundled checkpoint
with token logits: held-out differences with paired intervals over texts, held-out L1 of the load, and
the number of types. Writes benchmarks/results/token_types.{json,md}.
"""

from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from benchmarks.record import RESULTS, keep
from mfgjax.bundled import bundled_runs
from mfgjax.report.tables import markdown
from mfgjax.report.type_tables import type_count_table, type_fit_table, type_load_table
from mfgjax.simulate.drawn_tokens import simulate_typed_tokens
from mfgjax.token_types.fit import fit_types
from mfgjax.token_types.held_out import METHODS, cross_validate_types
from mfgjax.token_types.how_many import choose_types, gap_statistic
from mfgjax.token_types.kmeans import centred
from mfgjax.token_types.likelihood import dispatch_of
from mfgjax.trace import TokenTrace
from mfgjax.trace.sweep import read_token_traces

SCATTERS = (0.5, 1.0, 1.5, 2.0)
WEIGHT, CONGESTION, EXPERTS = np.array([0.6, 0.3, 0.1]), 6.0, 8


def simulated(scatter: float, seed: int) -> list[dict[str, Any]]:
    """Both ways on one draw: error of centres, weights and congestion, and held-out scores."""
    draw = np.random.default_rng(seed)
    quality = centred(1.2 * draw.standard_normal((len(WEIGHT), EXPERTS)))
    trace, _ = simulate_typed_tokens(quality, WEIGHT, CONGESTION, scatter=scatter, seed=seed)
    dispatch = dispatch_of(trace)
    fit = fit_types(trace.logits[:, 0], dispatch[:, 0], len(WEIGHT), most_types=5, seed=seed)
    held = cross_validate_types(trace, (1, 2, 3, 4, 5), seed=seed)
    gain = type_fit_table(held, resamples=500).query("layers == 'all' and types == 3").iloc[0]
    points = centred(trace.logits[:, 0])
    shared = {
        "scatter": scatter,
        "seed": seed,
        "likelihood_chooses": choose_types(held)[0],
        "gap_chooses": gap_statistic(points, 5, references=5, seed=seed).chosen(),
        **{name: float(gain[name]) for name in gain.index if name not in ("layers", "types")},
    }
    rows = []
    for method, model in zip(METHODS, (fit.kmeans, fit.fitted), strict=True):
        apart = cdist(quality, model.quality)
        order = linear_sum_assignment(apart)[1]
        rows.append(
            shared
            | {
                "method": method,
                "quality_error": float(np.sqrt((apart[range(3), order] ** 2).mean() / EXPERTS)),
                "weight_error": float(np.abs(WEIGHT - np.asarray(model.weight)[order]).max()),
                "congestion": float(model.congestion),
            }
        )
    return rows


def simulation_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Medians over draws, one row per scatter and method."""
    frame = pd.DataFrame(rows)
    numbers = ["quality_error", "weight_error", "congestion", "joint", "choice", "l1"]
    medians: Any = frame.groupby(["scatter", "method"])[numbers].median()
    table = medians.reset_index()
    for rule in ("likelihood_chooses", "gap_chooses"):
        right: Any = (frame[rule] == len(WEIGHT)).groupby(frame.scatter).mean()
        table[f"{rule}_3"] = table.scatter.map(right)
    return table


def measured(name: str, trace: TokenTrace, types: tuple[int, ...]) -> dict[str, Any]:
    """Tables of one bundled checkpoint."""
    held = cross_validate_types(trace, types)
    where = {"run": name, "step": trace.metadata.step}
    tables = {
        "fit": type_fit_table(held),
        "load": type_load_table(held),
        "count": type_count_table(trace, held, references=5),
    }
    for table in tables.values():
        for at, (key, value) in enumerate(where.items()):
            table.insert(at, key, value)
    return tables


def main(
    draws: Annotated[int, typer.Option(help="Simulated draws for each scatter.")] = 5,
    types: Annotated[str, typer.Option(help="Numbers of types, ascending.")] = "1,2,4,8,16",
) -> None:
    """Run both parts."""
    numbers = tuple(int(word) for word in types.split(","))
    rows = [row for s in SCATTERS for seed in range(draws) for row in simulated(s, seed)]
    found = [
        measured(name, trace, numbers)
        for name, run in bundled_runs().items()
        for trace in read_token_traces(run.traces)
    ]
    parts = {kind: pd.concat([own[kind] for own in found]) for kind in ("fit", "load", "count")}
    fit = parts["fit"].query("layers == 'all'")
    columns = ["run", "step", "types", "log_likelihood", "gain", "gain_error", "gap", "stability"]
    counts = parts["count"]
    mean: Any = counts.groupby(columns[:3], sort=False)[columns[3:]].mean()
    tables = {
        f"Simulated, three types, medians of {draws} draws": simulation_table(rows),
        "Likelihood less k-means, held out, bundled runs": fit.drop(columns="layers"),
        "Held-out L1 of the load": parts["load"],
        "Number of types, means over layers": mean.reset_index(),
    }
    text = "\n".join(markdown(t, title) for title, t in tables.items())
    keep(RESULTS / "token_types.json", lambda _: text, simulated=rows, **parts)
    Console(width=200).print(text, markup=False, highlight=False)


if __name__ == "__main__":
    typer.run(main)
