"""Benchmark results as Markdown tables: one function per file of benchmarks/results.

Each block says on what it was measured, then the rows, failures included.
"""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.markdown import Cell, measured_on, table

RESULTS = Path(__file__).parent / "results"


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


def solvers(record: dict) -> str:
    return "\n".join(f"* {name}: {value}" for name, value in record["summary"].items())


def solver_survey(record: dict) -> str:
    """One line for each cost, dtype and number of types, over all numbers of experts."""
    groups: dict[tuple, list[dict]] = {}
    for row in record["rows"]:
        groups.setdefault((row["cost"], row["dtype"], row["types"]), []).append(row)
    rows = []
    for (cost, dtype, types), members in groups.items():
        line: dict = {"cost": cost, "dtype": dtype, "K": types}
        for name in ("games", "unsolved", "precision", "certified_wrong"):
            line[name] = sum(row[name] for row in members)
        small = [row["bound_too_small"] for row in members]
        line["small"] = "-" if types > 1 else sum(small)
        for name in ("largest_error", "largest_bound", "largest_steps"):
            line[name] = max(row[name] for row in members)
        rows.append(line)
    columns = {
        "cost": "cost",
        "dtype": "dtype",
        "K": "K",
        "games": "{games:,}",
        "unsolved": "unsolved",
        "beyond the dtype": "precision",
        "certified and wrong": "certified_wrong",
        "bound too small": "small",
        "largest error": "{largest_error:.1e}",
        "largest bound": "{largest_bound:.1e}",
        "most steps": "largest_steps",
    }
    return table(rows, columns)


def trajectory(record: dict) -> str:
    columns = {
        "job": "name",
        "fits": "{fits:,}",
        "seconds": "{seconds:.1f}",
        "fits/s": "{fits_per_second:,.0f}",
        "first checkpoint, with compile (s)": "{first_checkpoint_seconds:.0f}",
        "not converged": "not_converged",
        "peak MB": "{peak_mb:.0f}",
        "before MB": "{before_mb:.0f}",
    }
    return table(record["rows"], columns)


def coverage(record: dict) -> str:
    rows = []
    for case in record["results"]:
        for objective, bias in case["bias"].items():
            found = {
                interval["interval"]: f"{interval['coverage']:.3f}"
                for interval in case["intervals"]
                if interval["objective"] == objective
            }
            rows.append({**case, "objective": objective, "found": found, "bias": bias})
    names = list(dict.fromkeys(name for row in rows for name in row["found"]))
    columns = {
        "case": "case",
        "texts x tokens": "{texts} x {tokens}",
        "sigma_q": "quality_noise",
        "gamma": "{congestion:g}",
        "objective": "objective",
        **{name: lambda row, name=name: row["found"].get(name, "-") for name in names},
        "bias": "{bias[estimate]:+.1f}",
        "bias, jackknife": "{bias[jackknife corrected]:+.1f}",
    }
    return table(rows, columns)


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


def bifurcation(record: dict) -> str:
    def count(name: str) -> Cell:
        return lambda row: f"{row[name]:,.0f}" if name in row else "-"

    def small(name: str) -> Cell:
        return lambda row: f"{row[name]:.1e}" if name in row else "-"

    columns = {
        "tool": "what",
        "dtype": "dtype",
        "points": count("points"),
        "equilibria": count("equilibria"),
        "per second": count("equilibria_per_s"),
        "unsolved": "unsolved",
        "wrong count": count("wrong_count"),
        "largest residual": small("largest_residual"),
        "distance to vmap": small("distance_to_vmap"),
    }
    return table(record["results"], columns)


def collapse_margin(record: dict) -> str:
    columns = {
        "run": "run",
        "feedback taken from": "feedback",
        "alarms": "{alarms} of {of}",
        "of them at initialisation": "alarms_at_initialisation",
        "margin": "{lowest_margin:.1f} to {highest_margin:.1f}",
        "largest load ever": "{largest_load_ever:.3f}",
    }
    return table(record["rows"], columns)


def extraction(record: dict) -> str:
    columns = {
        "case": "case",
        "overhead, wall": "{wall[overhead]:+.1%}",
        "quartiles": lambda row: " to ".join(f"{q:+.1%}" for q in row["wall"]["quartiles"]),
        "overhead, CPU": "{cpu[overhead]:+.1%}",
    }
    own = record["own_work"]["share_of_forward"]
    memory = ", ".join(
        f"{row['peak_megabytes_above_start']:.1f} MB for {row['texts']} texts"
        for row in record["memory"]
    )
    return (
        f"{table(record['overhead'], columns)}\n\nThe tap's own work is {own:.2%} of a forward. "
        f"Peak memory above the start: {memory}."
    )


def first_answer(record: dict) -> str:
    columns = {
        "command": "command",
        "cache": "cache",
        "CPU s": "{cpu_seconds:.1f}",
        "programs": "programs",
        "peak MB": "{peak_mb:.0f}",
    }
    return table(record["results"], columns)


_CASE = {
    "logits": "case",
    "texts x tokens": "{texts} x {tokens per text}",
    "γ set": "{congestion:g}",
}
_COVERED = {
    "corrected": "{median corrected:.1f}",
    "signal": "{median signal:.2f}",
    "coverage": "{coverage:.3f}",
    "bounded": "{bounded:.3f}",
}


def price_coverage(record: dict) -> str:
    squares = {"least squares": "{median uncorrected:.1f}"}
    width = {"largest half width of a price": "{largest half width of a price:.4f}"}
    return table(record["rows"], _CASE | squares | _COVERED | width)


def token_coverage(record: dict) -> str:
    columns = {
        **_CASE,
        "true value": lambda row: f"{abs(row['true value']):.1f}",  # none is negative but -0
        "uncorrected": "{median uncorrected:.1f}",
        **_COVERED,
        "median width": "{median width:.2f}",
        "each end further out from tokens": (
            "{ends further out by[0]:.2f} to {ends further out by[1]:.2f}"
        ),
    }
    return table(record["rows"], columns)


def price(record: dict) -> str:
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


def lab(record: dict) -> str:
    """Speed beside the torch trainer's, and what the presets take."""
    torch = next((r for r in record["rows"] if r["tool"].startswith("torch")), None)

    def beside(row: dict) -> str:
        if torch is None:
            return "-"
        return f"{row['tokens_per_cpu_second'] / torch['tokens_per_cpu_second']:.2f}"

    columns = {
        "one step of": "tool",
        "tokens a second": "{tokens_per_second:,.0f}",
        "tokens a CPU second": "{tokens_per_cpu_second:,.0f}",
        "of torch's": beside,
    }
    costs = "; ".join(
        f"`{c['preset']}` {c['cpu_minutes']:.0f} CPU minutes ({c['arms']} arms, {c['seeds']} seeds)"
        for c in record["costs"]
    )
    return (
        f"{table(record['rows'], columns)}\n\nTraining, from seconds per step: {costs}. Measuring a run takes about "
        "a second more."
    )


BLOCKS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "congestion": ("congestion", congestion),
    "peers": ("congestion", peers),
    "solvers": ("equilibrium", solvers),
    "solver survey": ("solver_survey", solver_survey),
    "trajectory": ("trajectory", trajectory),
    "coverage": ("coverage", coverage),
    "recovery": ("recovery", recovery),
    "several minima": ("recovery", several_minima),
    "finite tokens": ("recovery", finite_tokens),
    "bifurcation": ("bifurcation", bifurcation),
    "collapse_margin": ("collapse_margin", collapse_margin),
    "extraction": ("extraction", extraction),
    "first answer": ("first_answer", first_answer),
    "price": ("price", price),
    "lab cost": ("lab", lab),
    "price_coverage": ("price_coverage", price_coverage),
    "token_coverage": ("token_coverage", token_coverage),
}
"""Block name: the results file that it is made from, and how."""


def tables(blocks: dict[str, tuple[str, Callable[[dict], str]]] = BLOCKS) -> dict[str, str]:
    """Every block by name, from the files in benchmarks/results."""
    found = {path.stem: path.read_text().strip() for path in sorted(RESULTS.glob("*.md"))}
    for name, (stem, render) in blocks.items():
        record = json.loads((RESULTS / f"{stem}.json").read_text())
        found[name] = f"{render(record)}\n\n{measured_on(record)}"
    return found
