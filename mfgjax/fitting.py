"""Congestion of one checkpoint in one call: a file in, a row per layer and objective out."""

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd

from mfgjax.estimate.congestion.fit import Objective, fit_congestion
from mfgjax.estimate.inference.quality import TOKEN_QUALITIES, Quality
from mfgjax.estimate.inference.text_fit import fit_texts
from mfgjax.estimate.inference.token_quality import with_tokens
from mfgjax.estimate.inference.weights import refuse_few_texts
from mfgjax.report.fit_table import fit_frame
from mfgjax.trace import TokenTrace, read_trace
from mfgjax.trace.quality_load import SUFFIXES, read_quality_load
from mfgjax.trace.statistics import statistics_of


def fit(
    source: str | Path,
    *,
    objectives: Sequence[Objective] = ("l1", "kl"),
    quality: Quality = "mean",
) -> pd.DataFrame:
    """Congestion of every layer of one checkpoint, with its evidence, in float64.

    Args:
        source: a trace, or a CSV, NPZ or NPY file of qualities and loads
            (`mfgjax.trace.quality_load` has the forms).
        objectives: `"l1"` (Definition 3.1, at least 0), `"kl"` (signed), `"equilibrium"` (solved,
            at least 0).
        quality: what stands for an expert's quality; of traces only.

    Returns:
        One row per layer and objective: congestion, its standard error (over the texts of a trace,
        or of dispatch counts), residual, certificate (no congestion has a residual lower by more),
        number of local minima, whether it sits on the boundary 0, and the status as a word: only
        `CONVERGED` is certified. `attrs` says what the numbers rest on.

    Raises:
        TraceError: an unsound or missing file.
        ValueError: an unknown objective or quality, or a quality that the file cannot give.
    """
    source = Path(source)
    with jax.enable_x64(True):
        if source.suffix in SUFFIXES:
            frame, about = _of_pairs(source, objectives, quality)
        else:
            frame, about = _of_trace(source, objectives, quality)
    frame.attrs = {"source": str(source), "about": about}
    return frame


def _of_trace(source: Path, objectives: Sequence[Objective], quality: Quality):
    trace = read_trace(source)
    metadata = trace.metadata
    refuse_few_texts(source, metadata.text_count)
    about = (
        f"{metadata.model}, {metadata.revision}: M = {metadata.experts}, top-{metadata.top_k}, "
        f"{metadata.text_count} texts, {quality} quality; standard errors over texts."
    )
    statistics = _statistics(trace, source, quality)
    fits = {name: fit_texts(statistics, name, quality) for name in objectives}
    return fit_frame(fits, metadata.layers), about


def _of_pairs(source: Path, objectives: Sequence[Objective], quality: Quality):
    if quality != "mean":
        raise ValueError(f"{source}: has qualities of its own; --quality is for traces")
    pair = read_quality_load(source)
    values = [jnp.asarray(leaf) for leaf in (pair.quality, pair.load, pair.dispatches)]
    fits = {
        name: fit_congestion(values[0], values[1], name, dispatches=values[2])
        for name in objectives
    }
    about = f"M = {pair.quality.shape[1]}; γ and certificates in float64."
    return fit_frame(fits, pair.layers), about


def _statistics(trace, source: Path, quality: Quality):
    """Per-text sums in float64, with the tokens where the quality needs them."""
    sums = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float64), statistics_of(trace).statistics
    )
    if quality not in TOKEN_QUALITIES:
        return sums
    if not isinstance(trace, TokenTrace):
        raise ValueError(
            f"{source}: holds sums over texts, and quality {quality} needs every token: name the "
            ".tokens.safetensors of this checkpoint, or choose mean, split-half or log-probability"
        )
    return with_tokens(sums, jnp.asarray(trace.logits), jnp.asarray(trace.text))
