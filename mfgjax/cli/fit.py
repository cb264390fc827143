"""`mfgjax fit`: congestion of one checkpoint, with the evidence for it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mfgjax.cli.console import results, say_written, show, show_json
from mfgjax.cli.failures import FAILED
from mfgjax.cli.options import AsJson, Objectives, QualityName, Quiet, listed, out_option


def fit(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace, or a CSV, NPZ or NPY file.")
    ],
    out: Annotated[Path | None, out_option("Folder for fit.csv, fit.md and fit.tex.")] = None,
    objective: Objectives = "l1,kl",
    quality: QualityName = "mean",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Congestion of every layer of one checkpoint, with its evidence.

    The bound is a certificate: no congestion has a residual lower by more.
    The standard error of a trace is a jackknife over its texts; that of
    dispatch counts takes dispatches for independent (kl only).
    Exit code 1 if a layer has no certified estimate.

    [bold]Examples[/]

      mfgjax fit traces/step5000.statistics.safetensors
      mfgjax fit layer.csv --objective l1,kl,equilibrium --json

    [bold]Files without a trace[/]

      .csv  lines quality,1.2,0.3,... and load,0.7,0.3,... in turn; or a
            header with quality and load (and layer), a line per expert
      .npz  arrays quality and load, (experts) or (layers, experts)
      .npy  quality, then load: (2, experts) or (2, layers, experts)

    A load is fractions that sum to 1, or dispatch counts.
    """
    if source.is_dir():
        raise ValueError(
            f"{source}: a folder. Name one file of it, or use `mfgjax track {source}`."
        )
    if source.suffix not in (".safetensors", ".csv", ".npz", ".npy"):
        raise ValueError(f"{source}: a trace (.safetensors), .csv, .npz or .npy was expected")
    if not source.is_file():
        raise ValueError(f"{source}: no such file.")
    # Imported late, so that --help does not wait for jax.
    import jax

    from mfgjax.report.fit_table import fit_frame, fit_table
    from mfgjax.report.table_files import write_table
    from mfgjax.report.trajectory_table import records

    with jax.enable_x64(True):
        fits, layers, about = _fits(source, listed("--objective", objective, str, "l1,kl"), quality)
    frame = fit_frame(fits, layers)
    files = []
    if out is not None:
        files = write_table(frame, out, "fit", title=f"Congestion, {source.name}", note=about)
    if as_json:
        show_json({"source": source, "about": about, "fits": records(frame), "files": files})
    else:
        show(fit_table(frame, source.name, about, results.width))
    say_written(files)
    if not all(bool(fit.converged.all()) for fit in fits.values()):
        raise typer.Exit(FAILED)


def _fits(source: Path, objectives: tuple, quality) -> tuple[dict[str, Any], tuple[str, ...], str]:
    """Fits by objective, names of the layers, and what the numbers rest on."""
    import jax.numpy as jnp

    from mfgjax.estimate import fit_congestion, fit_texts
    from mfgjax.trace import read_trace
    from mfgjax.trace.quality_load import SUFFIXES, read_quality_load

    if source.suffix not in SUFFIXES:
        trace = read_trace(source)
        metadata, statistics = trace.metadata, _statistics(trace, source, quality)
        about = (
            f"{metadata.model}, {metadata.revision}: M = {metadata.experts}, top-{metadata.top_k}, "
            f"{metadata.text_count} texts, {quality} quality; standard errors over texts."
        )
        fits = {name: fit_texts(statistics, name, quality) for name in objectives}
        return fits, metadata.layers, about
    if quality != "mean":
        raise ValueError(f"{source}: has qualities of its own; --quality is for traces")
    pair = read_quality_load(source)
    values = [jnp.asarray(leaf) for leaf in (pair.quality, pair.load, pair.dispatches)]
    fits = {
        name: fit_congestion(values[0], values[1], name, dispatches=values[2])
        for name in objectives
    }
    return fits, pair.layers, f"M = {pair.quality.shape[1]}; γ and certificates in float64."


def _statistics(trace, source: Path, quality: str):
    """Per-text sums in float64, with the tokens where the quality needs them."""
    import jax
    import jax.numpy as jnp

    from mfgjax.estimate import TOKEN_QUALITIES, with_tokens
    from mfgjax.trace import TokenTrace, statistics_of

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
