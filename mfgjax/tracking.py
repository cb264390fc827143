"""The main job in one call: traces in, labelled trajectory out."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xarray as xr

from mfgjax.dynamics.intervals import RESAMPLES_OF_CORRECTED, IntervalName, check_interval
from mfgjax.dynamics.sweep_tokens import TokensOf, tokens_of_sweep
from mfgjax.dynamics.trajectory import Trajectory, estimate_trajectory
from mfgjax.estimate.inference.quality import TOKEN_QUALITIES, Quality, check_quality
from mfgjax.estimate.inference.weights import refuse_few_texts
from mfgjax.price.run_price import read_run_price
from mfgjax.report.dataset import trajectory_dataset
from mfgjax.report.price_rows import with_price
from mfgjax.trace.sweep import Sweep, read_sweep


def track(
    traces: str | Path,
    *,
    quality: Quality = "mean",
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    interval: IntervalName = "corrected",
    documents: Sequence | None = None,
    stream: str = "decoder",
    memory: float = 1e9,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> xr.Dataset:
    """Effective congestion of every checkpoint and layer of a folder of traces.

    Args:
        traces: folder of trace files, one per checkpoint (`mfgjax.trace` has the format).
        quality: what stands for an expert's quality: `"mean"`, `"median"`, `"trimmed"`,
            `"split-half"` or `"log-probability"` (`estimate_quality_and_load`).
            `"median"` and `"trimmed"` need the tokens form of every checkpoint.
        resamples: bootstrap resamples of the texts; 0 for point estimates only.
        seed: of the bootstrap.
        confidence: level of the intervals, in (0, 1).
        interval: `"corrected"`, `"percentile"` (the paper's), `"basic"`, `"bca"` or `"jackknife"`
            (`mfgjax.dynamics.intervals`). Only the first covers with few or short texts.
        documents: document of each text, any labels, where documents were cut into texts: whole
            documents are then resampled and left out.
        stream: `"decoder"` or `"encoder"`.
        memory: bytes that the device may use for a block of resamples.
            The results themselves come on top (see the how-to on large jobs).
        progress: wraps the iteration over checkpoints, e.g. in a progress bar.

    Returns:
        An xarray Dataset with dims checkpoint, layer, resample and bound; every variable says in
        its attributes what it is. `price_slope` with `price_slope_interval`, `price_explained`,
        `price_spread` and `price_state` (`mfgjax.price.run_price`) are of the price that the choices
        reveal: NaN where a trace holds neither bounds nor, within 20 million logits, tokens.

    Raises:
        TraceError: no traces, or unsound ones.
        ValueError: `resamples` or `confidence` out of range, an unknown quality or interval,
            fewer than three texts or documents, or documents of another number of texts.
    """
    check_quality(quality)
    sweep = read_sweep(traces, stream)
    refuse_few_texts(traces, sweep.checkpoints[0].text_count)
    tokens_of = None
    if quality in TOKEN_QUALITIES:
        tokens_of = tokens_of_sweep(traces, sweep, needed_by=[quality])
    _, dataset = track_sweep(
        sweep,
        quality=quality,
        tokens_of=tokens_of,
        resamples=resamples,
        seed=seed,
        confidence=confidence,
        interval=interval,
        documents=documents,
        memory=memory,
        progress=progress,
    )
    price = read_run_price(traces, stream=stream, documents=documents, level=confidence)
    return with_price(dataset, price)


def track_sweep(
    sweep: Sweep,
    *,
    quality: Quality = "mean",
    tokens_of: TokensOf | None = None,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
    interval: IntervalName = "corrected",
    documents: Sequence | None = None,
    memory: float = 1e9,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> tuple[Trajectory, xr.Dataset]:
    """`track` on traces that are read already, without the price: the estimates, and with labels."""
    if resamples < 0:
        raise ValueError(f"resamples is {resamples}, a count of 0 or more was expected")
    if not 0 < confidence < 1:
        raise ValueError(
            f"confidence is {confidence}, a number between 0 and 1 was expected (0.95)"
        )
    check_interval(interval)
    top_k = sweep.checkpoints[0].top_k
    trajectory = estimate_trajectory(
        sweep.statistics,
        top_k,
        quality=quality,
        tokens_of=tokens_of,
        resamples=resamples,
        seed=seed,
        documents=documents,
        memory=memory,
        keep=RESAMPLES_OF_CORRECTED if interval == "corrected" else None,
        progress=progress,
    )
    dataset = trajectory_dataset(
        trajectory,
        sweep,
        confidence=confidence,
        seed=seed,
        quality=quality,
        interval=interval,
    )
    return trajectory, dataset
