"""The study of Gaussian mixtures of experts as Markdown tables."""

from pathlib import Path

import numpy as np

from benchmarks.markdown import Cell, table
from mfgjax.bundled import bundled_runs
from mfgjax.gaussian_moe import router_temperature
from mfgjax.trace import read_trace


def _rates(record: dict) -> list[dict]:
    return [v for name, v in record.items() if name.startswith(("rates", "over-specified"))]


def mixture_temperatures(record: dict) -> str:
    def samples(row: dict) -> str:
        return "never" if row["observations"] is None else f"{row['observations']:,.3g}"

    columns = {
        "gate": "gate",
        "weights": lambda row: "{:g}, {:g}".format(*row["weights"]),
        "temperature": "{temperature:g}",
        "smallest eigenvalue": "{smallest eigenvalue:.1e}",
        "observations to 10%": samples,
    }
    return table(record["resolution"], columns)


def mixture_rates(record: dict) -> str:
    rows = []
    for case in _rates(record):
        sizes = case["sizes"]
        span = f"{sizes[0]['n']:,} to {sizes[-1]['n']:,}"
        for place, slope in enumerate(case["slopes"]):
            line = slope | {"case": case["case"], "n": span, "R": sizes[-1]["replicates"]}
            ratios = [
                row["rms over Cramer-Rao"][place] for row in sizes if "rms over Cramer-Rao" in row
            ]
            line["over"] = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "-"
            rows.append(line)
    columns = {
        "fit": "case",
        "n": "n",
        "data sets each": "R",
        "error of": "name",
        "slope": "{slope:+.3f}",
        "95%": lambda row: "{:+.3f} to {:+.3f}".format(*row["interval"]),
        "rms / Cramer-Rao": "over",
    }
    return table(rows, columns)


def mixture_evidence(record: dict) -> str:
    """How the fits behind the rates ended."""
    rows = [row | {"case": case["case"]} for case in _rates(record) for row in case["sizes"]]

    def loss(name: str) -> Cell:
        return lambda row: f"{row[name]:.2g}" if name in row else "-"

    columns = {
        "fit": "case",
        "n": "{n:,}",
        "data sets": "replicates",
        "status": lambda row: ", ".join(f"{v} {k}" for k, v in row["status"].items()),
        "decrement below 1e-4": "{decrement below 1e-4:.0%}",
        "best found twice": "{found twice:.0%}",
        "starts that reach it": "{starts that reach the best:.0%}",
        "median D": loss("median loss"),
        "mean D": loss("mean loss"),
        "median D as published": loss("median loss without the infimum"),
    }
    return table(rows, columns)


def mixture_coverage(record: dict) -> str:
    found = [value for name, value in record.items() if name.startswith("coverage")]
    rows = [row | {"kind": kind} for row in found for kind in row["coverage"]]
    columns = {
        "gate": "case",
        "n": "{n:,}",
        "data sets": "replicates",
        "interval from": "kind",
        "coverage, lowest and highest of the parameters": lambda row: (
            f"{min(row['coverage'][row['kind']]):.3f} to {max(row['coverage'][row['kind']]):.3f}"
        ),
        "status": lambda row: ", ".join(f"{v} {k}" for k, v in row["status"].items()),
    }
    return table(rows, columns)


def mixture_speed(record: dict) -> str:
    def shown(name: str, form: str) -> Cell:
        return lambda row: format(row[name], form) if name in row else "-"

    def times(row: dict) -> str:
        if "times mfgjax" not in row:
            return "-"
        return f"{'' if row['reached'] else 'more than '}{row['times mfgjax']:,.2g}"

    columns = {
        "data": "case",
        "n": "{n:,}",
        "program": lambda row: row["program"] + ("" if row["sets"] else " (not installed)"),
        "data sets": "sets",
        "CPU, of mfgjax": times,
        "steps": shown("steps", ".1f"),
        "reached the maximum": shown("reached", ".0%"),
        "nats short": shown("largest shortfall, nats", ".1g"),
    }
    return table(record.get("speed", []), columns)


def router_temperatures() -> str:
    """What the bundled runs say of their routers' temperature: their tokens, and their last loads."""
    rows = []
    for name, run in bundled_runs().items():
        paths = sorted(run.traces.glob("*.tokens.safetensors"), key=step_of)
        paths.append(max(run.traces.glob("*.statistics.safetensors"), key=step_of))
        for path in paths:
            kind = path.name.split(".")[-2].replace("statistics", "loads")
            found = router_temperature(read_trace(path))
            condition = [one.condition for one in found if np.isfinite(one.condition)]
            rows.append(
                {
                    "run": name,
                    "data": f"{kind}, step {step_of(path):,}",
                    "case": ", ".join(sorted({str(one.regime) for one in found})),
                    "identified": f"{sum(one.identified for one in found)} of {len(found)}",
                    "condition": ", ".join(f"{c:.2g}" for c in condition) or "-",
                }
            )
    columns: dict[str, str | Cell] = {
        "run": "run",
        "data": "data",
        "case": "case",
        "layers whose temperature is identified": "identified",
        "condition of the information, by layer": "condition",
    }
    return table(rows, columns)


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step").split("-")[0])


BLOCKS = {
    f"mixture {name}": ("gaussian_moe", render)
    for name, render in (
        ("temperatures", mixture_temperatures),
        ("rates", mixture_rates),
        ("evidence", mixture_evidence),
        ("coverage", mixture_coverage),
        ("speed", mixture_speed),
    )
}
