"""Benchmark results as Markdown tables: one function per file of benchmarks/results.

Each block says on what it was measured, then the rows, failures included.
"""

import json
from collections.abc import Callable
from pathlib import Path

RESULTS = Path(__file__).parent / "results"

Cell = Callable[[dict], object]


def table(rows: list[dict], columns: dict[str, str | Cell]) -> str:
    """Markdown of `rows`; a column is a key, or a function of the row."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (cell(row) if callable(cell) else row[cell] for cell in columns.values())
        lines.append("| " + " | ".join(_text(cell) for cell in cells) + " |")
    return "\n".join(lines)


def measured_on(record: dict) -> str:
    """The line under a table: command, device, versions, load of the machine."""
    on = record["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    return (
        f"`{on['command']}`: {on['device']}, {on['cores']} cores, load average "
        f"{on['load_average']:.1f}, Python {on['python']}, {versions}."
    )


def congestion(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "objective": "objective",
        "dtype": "dtype",
        "tool": "tool",
        "fits/s": lambda row: f"{row['fits_per_second']:,.0f}",
        "x scipy": lambda row: f"{row['times_scipy']:,.0f}",
        "worst excess": lambda row: f"{row['worst_excess']:.1e}",
        "wrong": lambda row: f"{row['wrong_minima']} of {row['checked']}",
    }
    return table(record["rows"], columns)


def peers(record: dict) -> str:
    """How many times faster than each tool that one would use otherwise."""
    rows = [row for row in record["rows"] if row["dtype"] == "float32"]
    speed = {(row["objective"], row["tool"]): row["fits_per_second"] for row in rows}

    def times(tool: str) -> Cell:
        return lambda row: f"{speed[row['objective'], tool] / row['fits_per_second']:,.0f} x"

    columns: dict[str, str | Cell] = {
        "objective": "objective",
        "peer": "tool",
        "mfgjax is faster by": times("mfgjax"),
        "with experts first": times("mfgjax, experts first"),
        "the peer's wrong minima": lambda row: f"{row['wrong_minima']} of {row['checked']}",
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
    columns: dict[str, str | Cell] = {
        "cost": "cost",
        "dtype": "dtype",
        "K": "K",
        "games": lambda row: f"{row['games']:,}",
        "unsolved": "unsolved",
        "beyond the dtype": "precision",
        "certified and wrong": "certified_wrong",
        "bound too small": "small",
        "largest error": lambda row: f"{row['largest_error']:.1e}",
        "largest bound": lambda row: f"{row['largest_bound']:.1e}",
        "most steps": "largest_steps",
    }
    return table(rows, columns)


def trajectory(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "job": "name",
        "fits": lambda row: f"{row['fits']:,}",
        "seconds": lambda row: f"{row['seconds']:.1f}",
        "fits/s": lambda row: f"{row['fits_per_second']:,.0f}",
        "first checkpoint, with compile (s)": lambda row: f"{row['first_checkpoint_seconds']:.0f}",
        "not converged": "not_converged",
        "peak MB": lambda row: f"{row['peak_mb']:.0f}",
        "before MB": lambda row: f"{row['before_mb']:.0f}",
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
    columns: dict[str, str | Cell] = {
        "case": "case",
        "texts x tokens": lambda row: f"{row['texts']} x {row['tokens']}",
        "sigma_q": "quality_noise",
        "gamma": lambda row: f"{row['congestion']:g}",
        "objective": "objective",
        **{name: lambda row, name=name: row["found"].get(name, "-") for name in names},
        "bias": lambda row: f"{row['bias']['estimate']:+.1f}",
        "bias, jackknife": lambda row: f"{row['bias']['jackknife corrected']:+.1f}",
    }
    return table(rows, columns)


def recovery(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "sigma_q": "sigma_q",
        "objective": "objective",
        "median relative error": lambda row: f"{row['median_relative_error']:.2g}",
        "paper": lambda row: "-" if row["paper_median"] is None else f"{row['paper_median']:g}",
    }
    return table(record["recovery"], columns)


def several_minima(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "instances": "instances",
        "several minima": lambda row: f"{row['several_minima']:.3f}",
        "at congestion 0": lambda row: f"{row['at_boundary']:.3f}",
        "not certified": "not_certified",
        "scipy's bounded search wrong": lambda row: f"{row['local_search_wrong']:.3f}",
        "median error there": lambda row: f"{row['median_error_where_wrong']:.1f}",
    }
    return table(record["several minima"], columns)


def finite_tokens(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "dispatches": lambda row: f"{row['dispatches']:,}",
        "mean estimate": lambda row: f"{row['mean_estimate']:.1f}",
        "predicted": lambda row: f"{row['predicted']:.1f}",
        "corrected (median)": lambda row: f"{row['corrected_median']:.1f}",
        "its spread": lambda row: f"{row['corrected_spread']:.1f}",
    }
    return table(record["finite tokens"], columns)


def bifurcation(record: dict) -> str:
    def count(name: str) -> Cell:
        return lambda row: f"{row[name]:,.0f}" if name in row else "-"

    def small(name: str) -> Cell:
        return lambda row: f"{row[name]:.1e}" if name in row else "-"

    columns: dict[str, str | Cell] = {
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
    columns: dict[str, str | Cell] = {
        "run": "run",
        "feedback taken from": "feedback",
        "alarms": lambda row: f"{row['alarms']} of {row['of']}",
        "of them at initialisation": "alarms_at_initialisation",
        "margin": lambda row: f"{row['lowest_margin']:.1f} to {row['highest_margin']:.1f}",
        "largest load ever": lambda row: f"{row['largest_load_ever']:.3f}",
    }
    return table(record["rows"], columns)


def extraction(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "case": "case",
        "overhead, wall": lambda row: f"{row['wall']['overhead']:+.1%}",
        "quartiles": lambda row: " to ".join(f"{q:+.1%}" for q in row["wall"]["quartiles"]),
        "overhead, CPU": lambda row: f"{row['cpu']['overhead']:+.1%}",
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
    columns: dict[str, str | Cell] = {
        "command": "command",
        "cache": "cache",
        "CPU s": lambda row: f"{row['cpu_seconds']:.1f}",
        "programs": "programs",
        "peak MB": lambda row: f"{row['peak_mb']:.0f}",
    }
    return table(record["results"], columns)


def price_coverage(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "logits": "case",
        "texts x tokens": lambda row: f"{row['texts']} x {row['tokens per text']}",
        "γ set": lambda row: f"{row['congestion']:g}",
        "least squares": lambda row: f"{row['median uncorrected']:.1f}",
        "corrected": lambda row: f"{row['median corrected']:.1f}",
        "signal": lambda row: f"{row['median signal']:.2f}",
        "coverage": lambda row: f"{row['coverage']:.3f}",
        "bounded": lambda row: f"{row['bounded']:.3f}",
        "largest half width of a price": lambda row: f"{row['largest half width of a price']:.4f}",
    }
    return table(record["rows"], columns)


def token_coverage(record: dict) -> str:
    columns: dict[str, str | Cell] = {
        "logits": "case",
        "texts x tokens": lambda row: f"{row['texts']} x {row['tokens per text']}",
        "γ set": lambda row: f"{row['congestion']:g}",
        "true value": lambda row: f"{abs(row['true value']):.1f}",  # none is negative but -0
        "uncorrected": lambda row: f"{row['median uncorrected']:.1f}",
        "corrected": lambda row: f"{row['median corrected']:.1f}",
        "signal": lambda row: f"{row['median signal']:.2f}",
        "coverage": lambda row: f"{row['coverage']:.3f}",
        "bounded": lambda row: f"{row['bounded']:.3f}",
        "median width": lambda row: f"{row['median width']:.2f}",
        "each end further out from tokens": lambda row: (
            f"{row['ends further out by'][0]:.2f} to {row['ends further out by'][1]:.2f}"
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

    columns: dict[str, str | Cell] = {
        "one step of": "tool",
        "tokens a second": lambda row: f"{row['tokens_per_second']:,.0f}",
        "tokens a CPU second": lambda row: f"{row['tokens_per_cpu_second']:,.0f}",
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


def _text(cell: object) -> str:
    return str(cell).replace("|", "\\|")
