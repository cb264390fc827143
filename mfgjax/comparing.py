"""Two checkpoints side by side: what differs, layer by layer, and by more than the texts explain.

Both are estimated from the same sums with the same groups of texts left out. Where they saw the same
texts, pseudo-values are subtracted text by text, so that what the texts have in common cancels;
otherwise errors add up (Welch 1947). Every interval is at the level 1 - (1 - level) / layers
(Bonferroni), so that all layers of one quantity hold together.

How far two loads are apart has no interval around 0: a distance is positive whatever the truth.
Beside it stands what chance alone gives, from swapping the two checkpoints at random within each text
(or, of different texts, between them): exact where the checkpoints route alike.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
import numpy as np
import pandas as pd
from scipy.special import stdtrit

from mfgjax.dynamics.trajectory import Trajectory, estimate_trajectory
from mfgjax.estimate.inference.corrected import correct_l1, correct_resamples
from mfgjax.estimate.inference.interval import confidence_interval
from mfgjax.estimate.inference.text_fit import signed_at_one_scale
from mfgjax.estimate.inference.weights import (
    jackknife_groups,
    leave_out_weights,
    refuse_few_texts,
)
from mfgjax.metrics.token_shift import token_shift, tokens_beside
from mfgjax.trace import TraceError, TraceMetadata, read_trace
from mfgjax.trace.schema import StatisticsTrace
from mfgjax.trace.statistics import statistics_of
from mfgjax.trace.sweep import trace_files

QUANTITIES = {
    "load": "distance between the loads, half of L1, 0 to 1",
    "signed": "signed congestion, corrected for the noise of few texts",
    "congestion": "effective congestion (Definition 3.1), corrected, at least 0",
    "entropy": "entropy of the load / log M",
    "quality_spread": "B0, max - min of quality",
    "beyond_scale": "signed congestion, that of the first taken at the second's scale of mean logits",
    "agreement": "share of the first's top-K choices that the second makes too, token by token",
    "router_kl": "KL of the second's gate from the first's, nats per token",
}
"""The last three where the experts bear the same numbers: `beyond_scale` for the same texts, `agreement`
and `router_kl` if the tokens of both are kept."""

_ROUNDING = 1e-6
"""Relative size of a difference that is none: equal texts in another order."""


def compare(
    first: str | Path,
    second: str | Path,
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    stream: str = "decoder",
    same_experts: bool | None = None,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> pd.DataFrame:
    """What the second checkpoint has more or less of than the first, per layer, with intervals.

    Args:
        first: a trace, or a folder of traces, whose last checkpoint is taken.
        second: the same. Layers are compared in order, and must be as many, of as many experts.
        resamples: of the texts, at least 1: for `congestion`, and for what chance does to the load.
        seed: of the resamples.
        confidence: of all layers of one quantity together, in (0, 1).
        stream: `"decoder"` or `"encoder"`, of folders.
        same_experts: whether expert i of one is expert i of the other, as in a model and what was trained
            from it; if not given, where the model names are equal.
        progress: wraps the iteration over the two, e.g. in a progress bar.

    Returns:
        A row per layer and quantity (`QUANTITIES`): `first`, `second`, `difference` (second minus
        first), `low` and `high` of it, and `differs`: 0 lies outside. Of `load` the difference is a
        distance, and `low` to `high` is what chance alone gives. Where experts bear different numbers
        they are matched by load first, and the distance is between profiles. Of `agreement` and
        `router_kl` the difference is the value itself, with its interval over texts.
        `attrs` says what was compared, whether text by text (`paired`), and the level of each layer.

    Raises:
        TraceError: unsound traces, or of other layers or experts.
        ValueError: `resamples` or `confidence` out of range, or fewer than three texts.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}, a count of 1 or more was expected")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, a number between 0 and 1 (0.95)")
    sides = [_read(path, stream) for path in (first, second)]
    a, b = (side.metadata for side in sides)
    for what, ours, theirs in (
        ("layers", len(a.layers), len(b.layers)),
        ("experts", a.experts, b.experts),
    ):
        if ours != theirs:
            raise TraceError(
                f"{second}: {theirs} {what}, but {ours} in {first}: nothing to compare."
            )
    paired = _same_texts(*sides)
    aligned = a.model == b.model if same_experts is None else same_experts
    level = 1 - (1 - confidence) / len(a.layers)
    with jax.enable_x64(True):  # a pseudo-value multiplies rounding by the number of texts
        found = [
            estimate_trajectory(
                jax.tree.map(lambda leaf: np.asarray(leaf, float)[None], sides[index].statistics),
                sides[index].metadata.top_k,
                resamples=resamples,
                seed=seed if paired else seed + index,
            )
            for index in progress(range(2))
        ]

    def difference(of: Callable[[Trajectory], np.ndarray]) -> _Part:
        return _difference(of(found[0]), of(found[1]), paired, level)

    parts = {
        "load": _loads(sides, paired, aligned, level, resamples, seed),
        "signed": difference(_of_signed),
        "congestion": _of_congestion(found, level),
        "entropy": difference(lambda one: _pseudo_values(one, "entropy")),
        "quality_spread": difference(_spread),
    }
    if aligned and paired:
        parts |= _aligned(sides, first, second, stream, level)
    frame = pd.concat([_rows(a.layers, name, part) for name, part in parts.items()])
    frame = frame.sort_values("layer", kind="stable", ignore_index=True)
    frame.attrs = {
        "first": _title(first, a, b),
        "second": _title(second, b, a),
        "paired": paired,
        "ranked": not aligned,
        "texts": [a.text_count, b.text_count],
        "confidence": confidence,
        "level_per_layer": level,
        "uncertified": int(sum((one.estimate.status > 0).sum() for one in found)),
    }
    return frame


@dataclasses.dataclass(frozen=True)
class _Part:
    """One quantity of all layers, `[layer]` each."""

    first: np.ndarray
    second: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _read(path: str | Path, stream: str) -> StatisticsTrace:
    path = Path(path)
    file = trace_files(path, stream)[-1] if path.is_dir() else path
    trace = read_trace(file)
    refuse_few_texts(file, trace.metadata.text_count)
    return statistics_of(trace)


def _title(path: str | Path, metadata: TraceMetadata, other: TraceMetadata) -> str:
    name = f"{metadata.model}, {metadata.revision}"
    return name if name != f"{other.model}, {other.revision}" else f"{name} ({path})"


def _same_texts(first: StatisticsTrace, second: StatisticsTrace) -> bool:
    same = first.metadata.texts_hash == second.metadata.texts_hash
    return same and np.array_equal(first.statistics.token_count, second.statistics.token_count)


def _pseudo_values(found: Trajectory, name: str) -> np.ndarray:
    """Jackknife pseudo-values `[text, layer]`, whose mean is the estimate without its bias."""
    estimate = np.asarray(getattr(found.estimate, name), float)[0]
    without = np.asarray(getattr(found.left_out, name), float)[:, 0]
    groups = len(without)
    return groups * estimate - (groups - 1) * without


def _spread(found: Trajectory) -> np.ndarray:
    """Pseudo-values of B0 around the plain estimate.

    A maximum has kinks, at which the jackknife's correction of the bias is worse than the bias; of
    the same texts both checkpoints have about the same.
    """
    many = _pseudo_values(found, "quality_spread")
    return many - many.mean(0) + np.asarray(found.estimate.quality_spread, float)[0]


def _of_signed(found: Trajectory) -> np.ndarray:
    centre = np.asarray(found.corrected.congestion, float)[0]
    return centre + np.asarray(found.corrected.influence, float)[:, 0]


def _difference(first: np.ndarray, second: np.ndarray, paired: bool, level: float) -> _Part:
    """t interval of the mean difference of pseudo-values `[text, layer]`."""
    if paired:
        moved = second - first
        error = moved.std(0, ddof=1) / np.sqrt(len(moved))
        freedom = len(moved) - 1.0
    else:
        squares = [many.var(0, ddof=1) / len(many) for many in (first, second)]
        total = squares[0] + squares[1]
        error = np.sqrt(total)
        spread = squares[0] ** 2 / (len(first) - 1) + squares[1] ** 2 / (len(second) - 1)
        freedom = np.where(spread > 0, total**2 / np.where(spread > 0, spread, 1), 1.0)
    a, b = first.mean(0), second.mean(0)
    reach = stdtrit(freedom, 0.5 + level / 2) * error
    return _Part(a, b, b - a, b - a - reach, b - a + reach)


def _of_congestion(found: list[Trajectory], level: float) -> _Part:
    """Percentiles of differences of corrected resamples, each cut off at 0.

    Resample r of both drew the same texts where they are paired.
    """
    points, drawn = [], []
    for one in found:
        unclipped, signed = np.asarray(one.estimate.unclipped), np.asarray(one.estimate.signed)
        points.append(np.maximum(correct_l1(unclipped, signed, one.corrected)[0][0], 0))
        many = np.asarray(one.resampled.unclipped)
        moved = correct_resamples(many, unclipped, signed, one.corrected, level)
        drawn.append(np.maximum(moved[:, 0], 0))
    ends = confidence_interval(drawn[1] - drawn[0], level)
    return _Part(points[0], points[1], points[1] - points[0], ends[:, 0], ends[:, 1])


def _aligned(sides, first: str | Path, second: str | Path, stream: str, level: float) -> dict:
    """What can be said only of the same experts on the same texts."""
    pair = [jax.tree.map(lambda leaf: np.asarray(leaf, float), side.statistics) for side in sides]
    without = leave_out_weights(jackknife_groups(len(pair[0].token_count)), float)
    weights = np.concatenate([np.ones((1, without.shape[1])), without])
    with jax.enable_x64(True):
        ends = jax.device_get(signed_at_one_scale(*pair, weights))
    many = [len(without) * end[0] - (len(without) - 1) * end[1:] for end in ends]
    parts = {"beyond_scale": _difference(many[0], many[1], True, level)}
    tokens = [tokens_beside(path, stream) for path in (first, second)]
    if tokens[0] is not None and tokens[1] is not None:
        for name, found in token_shift(tokens[0], tokens[1]).means(level).items():
            missing = np.full(len(found), np.nan)
            parts[name] = _Part(missing, missing, *found.T)
    return parts


def _loads(sides, paired: bool, aligned: bool, level: float, draws: int, seed: int) -> _Part:
    """Distance of the loads, and the quantile of distances when the two are swapped at random."""
    counts = [np.asarray(side.statistics.dispatch_count, float) for side in sides]
    if not aligned:
        counts = [_by_rank(count) for count in counts]
    rng = np.random.default_rng(seed)
    first, second = (count.sum(0) for count in counts)
    distance = _distance(first, second)
    both = np.concatenate(counts)
    chance = np.empty((draws, len(distance)))
    for draw in range(draws):
        if paired:
            kept = rng.integers(0, 2, len(counts[0]))
            swapped = np.tensordot(kept, counts[0] - counts[1], 1)  # moves between the sums
            chance[draw] = _distance(second + swapped, first - swapped)
        else:
            chosen = rng.permutation(len(both))[: len(counts[0])]
            part = both[chosen].sum(0)
            chance[draw] = _distance(part, first + second - part)
    missing = np.full(len(distance), np.nan)
    return _Part(missing, missing, distance, np.zeros_like(distance), np.quantile(chance, level, 0))


def _by_rank(count: np.ndarray) -> np.ndarray:
    """Experts of each layer in the order of their load."""
    order = np.argsort(-count.sum(0), axis=-1)
    return np.take_along_axis(count, order[None], axis=-1)


def _distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    shares = [count / count.sum(-1, keepdims=True) for count in (first, second)]
    return np.abs(shares[0] - shares[1]).sum(-1) / 2


def _rows(layers: tuple[str, ...], name: str, part: _Part) -> pd.DataFrame:
    columns = dataclasses.asdict(part)
    least = _ROUNDING * np.fmax(1, np.fmax(np.abs(part.first), np.abs(part.second)))
    outside = (part.low > least) | (part.high < -least)
    if name == "load":
        outside = part.difference > part.high
    elif name == "agreement":
        outside = part.high < 1 - least
    columns["differs"] = outside
    return pd.DataFrame({"layer": range(len(layers)), "name": layers, "quantity": name} | columns)
