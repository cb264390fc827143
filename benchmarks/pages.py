"""Rewrite the generated blocks of docs/: `python -m benchmarks.pages`.

A block stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`. Benchmark blocks come from
benchmarks/results, those about the bundled runs from their provenance files.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.record import Cell, table
from benchmarks.tables import tables
from mfgjax.bundled import BundledRun, bundled_runs
from mfgjax.gaussian_moe import router_temperature
from mfgjax.price import estimate_price_slope
from mfgjax.report.sections.paper import footnotes
from mfgjax.trace import read_trace

ROOT = Path(__file__).parent.parent
AT_REST, NEAR = 0.02, 0.05
"""Most that a slope may differ from the γ that was set, as a share of it, to count as at rest, or near."""
EVEN = 20.0
"""γ above which the load of the bundled run is nearly even."""
Held = Callable[..., str]
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        *("bundled-runs", "benchmarks", "limits", "lab", "how-to/cluster", "gaussian-moe"),
        "how-to/slim",
        "how-to/watch-training",
        "how-to/lab",
    )
]


def bundled_block() -> str:
    """What each bundled run is and shows, from its provenance file."""
    parts = []
    for name, run in bundled_runs().items():
        shows = json.loads((run.traces / "provenance.json").read_text())["shows"]
        lines = [f"**{name}**: {run.about}.", "", *[f"* {line}" for line in shows]]
        if run.truth is not None:
            lines += ["", recovered(run)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def recovered(run: BundledRun) -> str:
    """The congestion that was set and the one in force beside the slope of the revealed price."""
    truth = json.loads((run.traces / "provenance.json").read_text())["truth"]
    rows = []
    for row in truth:
        (path,) = run.traces.glob(f"step{row['step']}-*.statistics.safetensors")
        slope = estimate_price_slope(read_trace(path))
        rows.append(row | {"found": slope.congestion + 0.0, "interval": slope.interval + 0.0})
    low, high = np.stack([row["interval"] for row in rows]).transpose(2, 0, 1)
    in_force = np.asarray([row["in_force"] for row in rows])
    gamma = np.broadcast_to(np.asarray([[row["gamma"]] for row in rows]), in_force.shape)

    def held(truth: np.ndarray, where: np.ndarray | bool = True) -> str:
        inside = (low <= truth) & (truth <= high)
        return f"{(inside & where).sum()} of {np.broadcast_to(where, inside.shape).sum()}"

    def found(row: dict) -> str:
        ends = zip(row["found"], *row["interval"].T, strict=True)
        return "; ".join(f"{x:.1f} [{a:.1f}, {b:.1f}]" for x, a, b in ends)

    columns = {
        "step": "step",
        "γ set": "{gamma:.1f}",
        "slope on the average load that the price follows": lambda row: ", ".join(
            f"{x:.1f}" for x in np.asarray(row["price_slope"]) + 0.0
        ),
        "price in force, layers 0 to 3": lambda row: ", ".join(f"{x:.1f}" for x in row["in_force"]),
        "slope of the revealed price, 95%": found,
    }
    return (
        "Set by hand was γ; what the price that each checkpoint stores amounts to on its training load (400 "
        "other windows) is the price in force, which lags and averages a noisy load. The interval of the slope "
        f"revealed by held-out choices holds the price in force at {held(in_force)} layers and checkpoints, "
        f"the γ that was set at {held(gamma)}.\n\n{why_not_set(rows, gamma, in_force, held)}\n\n{table(rows, columns)}"
    )


def why_not_set(rows: list[dict], gamma: np.ndarray, in_force: np.ndarray, held: Held) -> str:
    """Whether the price was at its fixed point, and where the γ that was set is missed."""
    priced = gamma > 0
    on = np.where(priced, gamma, 1)
    rest = priced & (np.abs(np.asarray([row["price_slope"] for row in rows]) / on - 1) <= AT_REST)
    near = priced & (np.abs(in_force / on - 1) <= NEAR)
    steep, flat = priced & (gamma > EVEN), priced & (gamma <= EVEN)
    less = {
        name: 1 - np.median((in_force / on)[cells])
        for name, cells in (("steep", steep), ("flat", flat))
    }
    return (
        f"The price is at its fixed point, by the slope of the stored bias on the average load that it follows (within "
        f"{AT_REST:.0%} of γ), at {rest.sum()} of the {priced.sum()} layers and checkpoints with γ > 0: it relaxes in 5 steps "
        "and the average in 100, and the shortest ramp takes 1,280. Among those the interval holds γ at "
        f"{held(gamma, rest)}. So what misses is not the relaxation but the average: the slope on the load itself is lower than "
        f"on the average of about a hundred batches, by {less['steep']:.0%} in the median where γ > {EVEN:g} (the load is nearly "
        f"even there; the interval holds γ at {held(gamma, steep)}) and by {less['flat']:.0%} elsewhere ({held(gamma, flat)}). "
        f"Where the price in force is within {NEAR:.0%} of γ the interval holds γ at {held(gamma, near)}. That the noise of the "
        "average does it, which moves the price and with it the load the other way, is likely and was not measured."
    )


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


def blocks() -> dict[str, str]:
    """Every block by name."""
    disagreements = "\n".join(f"* {note}" for note in footnotes())
    return {
        "bundled runs": bundled_block(),
        "disagreements": disagreements,
        "router temperatures": router_temperatures(),
        **tables(),
    }


def rewrite(text: str, content: dict[str, str]) -> str:
    """`text` with each of its blocks replaced; a block that nothing fills is an error."""

    def fill(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in content:
            raise SystemExit(f"block {name!r} has no source; there are {sorted(content)}")
        return f"<!-- begin: {name} -->\n{content[name]}\n<!-- end: {name} -->"

    return re.sub(
        r"<!-- begin: (?P<name>.+?) -->\n.*?<!-- end: (?P=name) -->", fill, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    content = blocks()
    for page in PAGES:
        page.write_text(rewrite(page.read_text(), content))
