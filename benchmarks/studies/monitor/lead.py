"""By how many sampled steps one alarm of a broken run comes before another, and before the damage."""

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import quantile_test

from benchmarks.record import table
from benchmarks.studies.monitor.runs import BREAK, EVERY, KINDS

IN_TIME = 200
"""Sampled steps after the break in which an alarm counts."""

NEVER = IN_TIME + 1
"""In place of the first alarm where none came in time."""

BEFORE = 100
"""Sampled steps before the break that damage is compared with."""
MEAN_OF = 5  # sampled steps of loss

_START = BREAK // EVERY


def first_alarms(alarms: Bool[np.ndarray, "sample run layer"]) -> Int[np.ndarray, " run"]:
    """Sampled steps from the break to the first alarm in any layer."""
    return _first(np.any(alarms[_START : _START + IN_TIME], axis=-1, keepdims=True)[..., 0])


def damage(run: dict[str, np.ndarray]) -> Int[np.ndarray, " run"]:
    """Sampled steps from the break to the damage, a mark that no threshold is set for.

    The first at which a layer has more experts without a token, or the mean of five losses is higher,
    than at any time of the hundred before the break.
    """
    dead = (run["count"] == 0).sum(-1).swapaxes(0, 1)  # sample, run, layer
    most = dead[_START - BEFORE : _START].max(0)
    smooth = np.lib.stride_tricks.sliding_window_view(run["loss"].T, MEAN_OF, axis=0).mean(-1)
    high = smooth[_START - BEFORE : _START - MEAN_OF + 1].max(0)
    last = slice(_START - MEAN_OF + 1, _START - MEAN_OF + 1 + IN_TIME)  # windows by their last step
    here = slice(_START, _START + IN_TIME)
    return _first((dead[here] > most).any(-1) | (smooth[last] > high))


def _first(found: Bool[np.ndarray, "sample run"]) -> Int[np.ndarray, " run"]:
    return np.where(found.any(0), found.argmax(0) + 1, NEVER)


def lead_rows(
    kind: Int[np.ndarray, " run"], own: Int[np.ndarray, " run"], others: dict[str, np.ndarray]
) -> list[dict]:
    """Lead of `own` over each of the others, by kind of collapse and over all broken runs.

    Only runs in which one of the two came are looked at. One that never came counts as `NEVER`, so that
    such a lead, or lag, is the least that it can be.
    """
    rows = []
    for name, other in others.items():
        groups = {KINDS[k]: kind == k for k in range(1, len(KINDS))} | {"all": kind > 0}
        for label, chosen in groups.items():
            used = chosen & ((own < NEVER) | (other < NEVER))
            rows.append({"over": name, "kind": label, **_summary((other - own)[used])})
    return rows


def _summary(lead: Float[np.ndarray, " run"]) -> dict:
    if not lead.size:
        return {"runs": 0, "first": 0, "median": None, "interval": None, "leads": []}
    interval = quantile_test(lead, p=0.5).confidence_interval(0.95)
    bounds = [float(x) for x in (interval.low, interval.high)]
    return {
        "runs": int(lead.size),
        "first": int((lead > 0).sum()),
        "median": float(np.median(lead)),
        "interval": None if np.isnan(bounds).any() else bounds,  # too few runs for one
        "leads": lead.tolist(),
    }


def lead_markdown(rows: list[dict], healthy: dict) -> str:
    """The second table of the documentation."""
    over: dict[str, dict] = {}
    for row in rows:
        over.setdefault(row["over"], {"the monitor's alarm before": row["over"]})[row["kind"]] = (
            _cell(row)
        )
    lines = list(over.values())
    return (
        f"{table(lines, {name: name for name in lines[0]})}\n\n"
        "Cells: runs in which the monitor was first, of those in which either came; median lead in "
        "sampled steps and its exact 95% interval by order statistics, where the runs are enough for one. "
        f"What did not come in {IN_TIME} sampled steps counts as {NEVER}, so such a lead or lag is the least "
        f"it can be. Damage: more experts without a token, or a higher loss (mean of {MEAN_OF}), than in "
        f"any of the {BEFORE} sampled steps before the break; it is there in {healthy['damaged']} of "
        f"{healthy['runs']} healthy runs too, and the monitor alarms in {healthy['alarmed']} of them.\n"
    )


def _cell(row: dict) -> str:
    if not row["runs"]:
        return "-"
    interval = row["interval"]
    between = "" if interval is None else f" ({interval[0]:g} to {interval[1]:g})"
    return f"{row['first']} of {row['runs']}, {row['median']:g}{between}"
