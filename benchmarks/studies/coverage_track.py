"""Does everything that `mfgjax track` shows with an interval cover its truth?

    python -m benchmarks.studies.coverage_track --json FILE

gamma_eff per layer, its layer average, the change of the average between checkpoints and the band
along them; the same of the signed congestion; B0 and the entropy of the load. Each replicate is a run
of three checkpoints whose routers have a known congestion, read by the functions that `track` calls.
"""

import dataclasses
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer
from rich.console import Console

from benchmarks.record import JsonFile, keep, table
from mfgjax.dynamics.intervals import corrected_l1, corrected_signed, standard_interval
from mfgjax.dynamics.trajectory import Trajectory, estimate_trajectory
from mfgjax.simulate import draw_truth, simulate_texts

EXPERTS, TOP_K, LANES = 16, 4, 800
ALIKE = {"quality_noise": 0.02, "concentration": 2000.0}
CASES: dict[str, dict[str, Any]] = {
    "plain": {"congestion": (5.0, 15.0, 15.0), "layers": 4, "texts": 50, "tokens": 200},
    "no congestion": {"congestion": (0.0, 0.0, 0.0), "layers": 4, "texts": 50, "tokens": 200},
    "no congestion, 16 layers": {
        "congestion": (0.0, 0.0, 0.0),
        "layers": 16,
        "texts": 50,
        "tokens": 200,
    },
    "Pareto lengths": {
        "congestion": (5.0, 15.0, 15.0),
        "layers": 4,
        "texts": 50,
        "tokens": 1000,
        "pareto": 1.2,
    },
    "12 texts": {"congestion": (5.0, 15.0, 15.0), "layers": 4, "texts": 12, "tokens": 800},
    "paper size": {"congestion": (5.0, 15.0, 15.0), "layers": 4, "texts": 50, "tokens": 14},
}
"""Texts of `tokens` tokens; with `pareto` of 40 tokens or more, by a Pareto law of that index."""

simulate = jax.jit(simulate_texts, static_argnames=("texts", "tokens", "top_k"))


def study(case: dict, replicates: int, resamples: int, level: float, seed: int) -> list[dict]:
    """Coverage of each quantity; replicates ride on the layer axis, `LANES` layers at a time."""
    layers = case["layers"]
    runs = LANES // layers
    held: dict[str, list] = {}
    for chunk in range(-(-replicates // runs)):
        key = jax.random.fold_in(jax.random.key(seed), chunk)
        trajectory, truths = _simulate(case, key, resamples)
        parts = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(trajectory)}
        for run in range(runs):
            one = slice(run * layers, (run + 1) * layers)
            mine = Trajectory(**{name: _of_layers(part, one) for name, part in parts.items()})
            for name, (ends, truth) in _shown(mine, case, truths, one, level).items():
                held.setdefault(name, []).append((ends, truth))
    return [_row(name, found) for name, found in held.items()]


def _of_layers(part, layers: slice):
    return jax.tree.map(lambda leaf: leaf[..., layers], part)


def _simulate(case, key, resamples):
    lanes = LANES
    drawn = jax.random.fold_in(key, 0)
    samples, truths = [], []
    for number, congestion in enumerate(case["congestion"]):
        truth = draw_truth(drawn, jnp.full(lanes, congestion, jnp.float32), EXPERTS)
        lengths = None
        if "pareto" in case:
            uniform = np.random.default_rng(int(jax.random.bits(key))).uniform(size=case["texts"])
            lengths = jnp.asarray(np.minimum(40 * uniform ** (-1 / case["pareto"]), case["tokens"]))
            lengths = jnp.floor(lengths).astype(jnp.int32)
        settings = {"texts": case["texts"], "tokens": case["tokens"], "top_k": TOP_K}
        samples.append(
            simulate(
                jax.random.fold_in(key, 1 + number), truth, **settings, **ALIKE, lengths=lengths
            )
        )
        truths.append(truth)
    statistics = jax.tree.map(lambda *leaves: jnp.stack(leaves), *samples)
    seed = int(jax.random.bits(jax.random.fold_in(key, 99)) >> 2)
    trajectory = estimate_trajectory(statistics, TOP_K, resamples=resamples, seed=seed, memory=3e9)
    return trajectory, truths


def _shown(trajectory, case, truths, one, level):
    """Interval `[..., 2]` and truth `[...]` of everything shown of one run."""
    congestion = np.asarray(case["congestion"])
    grid = np.broadcast_to(congestion[:, None], (len(congestion), case["layers"]))
    found = {}
    for label, prefix, values in (
        ("γ_eff", "corrected_l1", corrected_l1(trajectory, level)),
        ("signed γ", "corrected", corrected_signed(trajectory, level, 0)),
    ):
        change = values[f"mean_{prefix}_change_interval"][1][1:]
        found[f"{label}, layer"] = (values[f"{prefix}_interval"][1], grid)
        found[f"{label}, average"] = (values[f"mean_{prefix}_interval"][1], congestion)
        found[f"{label}, change"] = (change, np.diff(congestion))
        found[f"{label}, band"] = (values[f"mean_{prefix}_band"][1], congestion)
    spread = np.stack([np.ptp(np.asarray(truth.quality)[one], axis=-1) for truth in truths])
    load = np.stack([np.asarray(truth.load)[one] for truth in truths])
    entropy = -(load * np.log(load)).sum(-1) / np.log(EXPERTS)
    for label, name, truth in (("B0", "quality_spread", spread), ("H", "entropy", entropy)):
        kinds = (trajectory.estimate, trajectory.resampled, trajectory.left_out)
        whole, drawn, without = (np.asarray(getattr(leaf, name)) for leaf in kinds)
        found[f"{label}, layer"] = (
            standard_interval("corrected", whole, drawn, without, level),
            truth,
        )
        means = standard_interval(
            "corrected", whole.mean(-1), drawn.mean(-1), without.mean(-1), level
        )
        found[f"{label}, average"] = (means, truth.mean(-1))
    return found


def _row(name: str, found: list) -> dict:
    low, high = np.moveaxis(np.stack([ends for ends, _ in found]), -1, 0)
    truth = np.stack([truth for _, truth in found])
    # The truth of a float32 simulation is float32: an end of exactly 0 holds 0.
    below, above = high < truth, low > truth
    miss = below | above
    if name.endswith("band"):
        miss = miss.any(-1)
    share = 1 - float(miss.mean())
    return {
        "quantity": name,
        "runs": len(found),
        "coverage": share,
        "monte_carlo_error": float(np.sqrt(share * (1 - share) / len(found))),
        "missed_low": float(below.mean()),
        "missed_high": float(above.mean()),
        "median_width": float(np.median(high - low)),
    }


def markdown(record: dict) -> str:
    """Quantities down, cases across."""
    cases = [case["intervals"] for case in record["results"]]
    rows = [{"": of[0]["quantity"], "of": of} for of in zip(*cases, strict=True)]
    columns = {"": ""}
    for place, case in enumerate(record["results"]):
        columns[case["case"]] = f"{{of[{place}][coverage]:.3f}}"
    return table(rows, columns) + "\n"


def main(
    json_path: JsonFile = None,
    replicates: int = 1000,
    resamples: int = 256,
    level: float = 0.95,
    seed: int = 0,
    only: Annotated[str | None, typer.Option(help="one case")] = None,
) -> None:
    """Coverage of nominal intervals; with --json FILE a Markdown table beside it."""
    console, results = Console(width=110), []
    for name, case in CASES.items():
        if only not in (None, name):
            continue
        begun = time.perf_counter()
        rows = study(case, replicates, resamples, level, seed)
        results.append({"case": name, **case, "intervals": rows})
        console.print(f"{name}: {time.perf_counter() - begun:.0f} s")
        for row in rows:
            console.print(
                f"  {row['quantity']:20s} {row['coverage']:.3f} ± {row['monte_carlo_error']:.3f}  "
                f"missed low {row['missed_low']:.3f}, high {row['missed_high']:.3f}"
            )
        keep(
            json_path,
            markdown,
            **{"level": level, "seed": seed, "experts": EXPERTS, "top_k": TOP_K},
            **{"resamples": resamples, "results": results},
        )


if __name__ == "__main__":
    typer.run(main)
