"""Do the intervals of `mfgjax track` cover where a few long texts hold most tokens?

    python -m benchmarks.studies.coverage_lengths --json FILE

Runs of three checkpoints at a known congestion, 50 texts of 40 tokens or more by a Pareto law that is
not cut, drawn anew for each run and the same at its checkpoints. Coverage by how many texts of one
length would weigh as unevenly, `(sum n)^2 / sum n^2`, which `track` says below 20.
"""

from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.record import JsonFile, keep, table
from mfgjax.dynamics.intervals import corrected_l1, corrected_signed
from mfgjax.dynamics.trajectory import estimate_trajectory
from mfgjax.trace.schema import TextStatistics

TEXTS, LAYERS, EXPERTS, TOP_K, LEVEL = 50, 4, 16, 4, 0.95
CONGESTION = np.array([5.0, 15.0, 15.0])
TEXTS_DIFFER = {"unlike texts": (200.0, 200), "texts alike": (2000.0, 2000)}
"""Concentration of loads over texts, and the seed."""
BINS = ((0, 5), (5, 10), (10, 20), (20, TEXTS + 1))


def draw(rng: np.random.Generator, index: float, concentration: float) -> TextStatistics:
    """One run; the dispatches of a text are multinomial, which Pareto's longest texts can afford."""
    length = np.floor(np.minimum(40 * rng.uniform(size=TEXTS) ** (-1 / index), 1e6))
    load = np.exp(0.2 * rng.normal(size=(LAYERS, EXPERTS)))
    load /= load.sum(-1, keepdims=True)
    each, parts = length[:, None, None], []
    for congestion in CONGESTION:
        quality = np.log(load) + congestion * load
        quality -= quality.mean(-1, keepdims=True)
        share = rng.gamma(concentration * np.broadcast_to(load, (TEXTS, LAYERS, EXPERTS)))
        share /= share.sum(-1, keepdims=True)
        mean = quality + rng.normal(size=share.shape) * 0.02 * TEXTS**0.5
        mean = mean + rng.normal(size=share.shape) / each**0.5
        counts = rng.multinomial((TOP_K * length).astype(int)[:, None], share)
        square = each * (1 + (mean - mean.mean(-1, keepdims=True)) ** 2)
        chance = each * np.asarray(jax.nn.softmax(mean, axis=-1))
        parts.append([length, mean * each, square, counts, chance])
    return TextStatistics(
        *(jnp.asarray(np.stack(p), jnp.float32) for p in zip(*parts, strict=True))
    )


def held(statistics: TextStatistics, seed: int, resamples: int) -> dict[str, float]:
    """Share of the intervals of one run that hold the truth."""
    trajectory = estimate_trajectory(statistics, TOP_K, resamples=resamples, seed=seed)
    found = {}
    for label, prefix, values in (
        ("γ_eff", "corrected_l1", corrected_l1(trajectory, LEVEL)),
        ("signed γ", "corrected", corrected_signed(trajectory, LEVEL, 0)),
    ):
        ends = {name: np.asarray(part) for name, (_, part) in values.items()}
        change = ends[f"mean_{prefix}_change_interval"][1:]
        for name, interval, truth in (
            ("layer", ends[f"{prefix}_interval"], CONGESTION[:, None]),
            ("average", ends[f"mean_{prefix}_interval"], CONGESTION),
            ("change", change, np.diff(CONGESTION)),
            ("band", ends[f"mean_{prefix}_band"], CONGESTION),
        ):
            holds = (interval[..., 0] <= truth) & (truth <= interval[..., 1])
            found[f"{label}, {name}"] = float(holds.all() if name == "band" else holds.mean())
    return found


def study(texts: str, index: float, replicates: int, resamples: int) -> list[dict]:
    """Coverage by the number of equal texts, one row per bin that has runs."""
    concentration, seed = TEXTS_DIFFER[texts]
    rng, rows, equal = np.random.default_rng(seed), [], []
    for replicate in range(replicates):
        statistics = draw(rng, index, concentration)
        length = np.asarray(statistics.token_count[0], float)
        equal.append(length.sum() ** 2 / (length**2).sum())
        rows.append(held(statistics, replicate, resamples))
    out = []
    for low, high in BINS:
        mine = [row for row, size in zip(rows, equal, strict=True) if low <= size < high]
        if mine:
            shares = {name: float(np.mean([row[name] for row in mine])) for name in mine[0]}
            out.append({"texts": texts, "from": low, "below": high, "runs": len(mine), **shares})
    return out


def markdown(record: dict) -> str:
    """One line per kind of texts and bin."""
    columns = {
        "texts": "texts",
        "weigh as, texts of one length": lambda row: (
            f"{row['from']} to {row['below']}"
            if row["below"] <= TEXTS
            else f"{row['from']} or more"
        ),
        "runs": "runs",
    }
    names = [name for name in record["rows"][0] if "γ" in name]
    columns |= {name: lambda row, name=name: f"{row[name]:.2f}" for name in names}
    return table(record["rows"], columns)


def main(
    json_path: JsonFile = None,
    index: Annotated[float, typer.Option(help="of the Pareto law")] = 1.3,
    replicates: int = 400,
    resamples: int = 256,
) -> None:
    """Coverage of nominal 95% intervals, by the number of equal texts."""
    rows = [row for texts in TEXTS_DIFFER for row in study(texts, index, replicates, resamples)]
    for row in rows:
        print(row)
    keep(json_path, markdown, index=index, rows=rows)


if __name__ == "__main__":
    typer.run(main)
