"""Markdown tables of benchmarks whose results make several: the others write theirs beside their results.

Each block has the rows, failures included, and says on what it was measured.
"""

import json
from collections.abc import Callable

from benchmarks.record import RESULTS, Cell, measured_on, table


def congestion(record: dict) -> str:
    columns = {
        "objective": "objective",
        "dtype": "dtype",
        "tool": "tool",
        "fits/s": "{fits_per_second:,.0f}",
        "x scipy": "{times_scipy:,.0f}",
        "worst excess": "{worst_excess:.1e}",
        "wrong": "{wrong_minima} of {checked}",
    }
    return table(record["rows"], columns)


def peers(record: dict) -> str:
    """How many times faster than each tool that one would use otherwise."""
    rows = [row for row in record["rows"] if row["dtype"] == "float32"]
    speed = {(row["objective"], row["tool"]): row["fits_per_second"] for row in rows}

    def times(tool: str) -> Cell:
        return lambda row: f"{speed[row['objective'], tool] / row['fits_per_second']:,.0f} x"

    columns = {
        "objective": "objective",
        "peer": "tool",
        "mfgjax is faster by": times("mfgjax"),
        "with experts first": times("mfgjax, experts first"),
        "the peer's wrong minima": "{wrong_minima} of {checked}",
    }
    return table([row for row in rows if not row["tool"].startswith("mfgjax")], columns)


def recovery(record: dict) -> str:
    columns = {
        "sigma_q": "sigma_q",
        "objective": "objective",
        "median relative error": "{median_relative_error:.2g}",
        "paper": lambda row: "-" if row["paper_median"] is None else f"{row['paper_median']:g}",
    }
    return table(record["recovery"], columns)


def several_minima(record: dict) -> str:
    columns = {
        "instances": "instances",
        "several minima": "{several_minima:.3f}",
        "at congestion 0": "{at_boundary:.3f}",
        "not certified": "not_certified",
        "scipy's bounded search wrong": "{local_search_wrong:.3f}",
        "median error there": "{median_error_where_wrong:.1f}",
    }
    return table(record["several minima"], columns)


def finite_tokens(record: dict) -> str:
    columns = {
        "dispatches": "{dispatches:,}",
        "mean estimate": "{mean_estimate:.1f}",
        "predicted": "{predicted:.1f}",
        "corrected (median)": "{corrected_median:.1f}",
        "its spread": "{corrected_spread:.1f}",
    }
    return table(record["finite tokens"], columns)


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


BLOCKS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "congestion": ("congestion", congestion),
    "peers": ("congestion", peers),
    "recovery": ("recovery", recovery),
    "several minima": ("recovery", several_minima),
    "finite tokens": ("recovery", finite_tokens),
    "mixture temperatures": ("gaussian_moe", mixture_temperatures),
    "mixture rates": ("gaussian_moe", mixture_rates),
    "mixture evidence": ("gaussian_moe", mixture_evidence),
    "mixture coverage": ("gaussian_moe", mixture_coverage),
    "mixture speed": ("gaussian_moe", mixture_speed),
}
"""Block name: the results file that it is made from, and how."""


def tables() -> dict[str, str]:
    """Every block by name, from the files in benchmarks/results."""
    found = {path.stem: path.read_text().strip() for path in sorted(RESULTS.glob("*.md"))}
    for name, (stem, render) in BLOCKS.items():
        record = json.loads((RESULTS / f"{stem}.json").read_text())
        found[name] = f"{render(record)}\n\n{measured_on(record)}"
    return found
