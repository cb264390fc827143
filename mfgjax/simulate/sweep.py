"""A training run whose congestion is known: traces that `track` and `fit` read, and their truth.

Every checkpoint has the same loads; its congestion and the qualities that make those loads an
equilibrium change (see `mfgjax.simulate.equilibrium_texts`).
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import mfgjax
from mfgjax.report.files import whole_file
from mfgjax.simulate.equilibrium_texts import RouterTruth, draw_truth, simulate_texts
from mfgjax.trace import TraceMetadata, write_trace
from mfgjax.trace.schema import StatisticsTrace, TextStatistics

TRUTH = "truth.json"


@dataclasses.dataclass(frozen=True)
class SimulatedRun:
    """What to simulate.

    Attributes:
        congestion: of every layer, per checkpoint.
        steps: training step of each checkpoint, increasing.
        layers: MoE layers; their loads differ.
        experts: M.
        top_k: experts per token, K.
        texts: number of texts.
        tokens: tokens in each text.
        quality_noise: sigma_q, standard deviation of the mean quality over all texts.
        dispersion: standard deviation of token logits around the text's.
        load_spread: standard deviation of log load.
        seed: of everything.
    """

    congestion: tuple[float, ...] = (0, 0, 5, 12, 15, 14, 10, 8)
    steps: tuple[int, ...] = (0, 100, 200, 400, 800, 1600, 3200, 6400)
    layers: int = 2
    experts: int = 16
    top_k: int = 4
    texts: int = 100
    tokens: int = 200
    quality_noise: float = 0.02
    dispersion: float = 1.0
    load_spread: float = 0.2
    seed: int = 0

    def __post_init__(self):
        if len(self.congestion) != len(self.steps):
            raise ValueError(
                f"{len(self.congestion)} congestions and {len(self.steps)} steps: give one of each "
                "per checkpoint"
            )
        if any(b <= a for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(
                f"steps {list(self.steps)} must increase from checkpoint to checkpoint"
            )
        if not 1 <= self.top_k < self.experts:
            raise ValueError(f"top_k is {self.top_k}; it must lie between 1 and experts - 1")
        for name in ("quality_noise", "dispersion", "load_spread"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


def simulate_sweep(
    folder: str | Path,
    run: SimulatedRun | None = None,
    *,
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> dict[str, Any]:
    """Write one statistics trace per checkpoint, then `truth.json`; returns what is in it.

    Args:
        folder: where to; it must hold no traces yet, since a sweep is one run.
        run: what to simulate.
        progress: wraps the iteration over checkpoints.

    Returns:
        The settings; per checkpoint its congestion and per layer the true quality and load.

    Raises:
        ValueError: settings that do not fit together, or traces in the folder.
    """
    folder, run = Path(folder), run or SimulatedRun()
    if list(folder.glob("*.safetensors")):
        raise ValueError(f"{folder}: holds traces already. Choose another folder, or empty it.")
    drawn, sampled = jax.random.split(jax.random.key(run.seed))
    checkpoints = []
    for index in progress(range(len(run.steps))):
        congestion = jnp.full(run.layers, run.congestion[index], jnp.float32)
        truth = draw_truth(drawn, congestion, run.experts, run.load_spread)
        statistics = simulate_texts(
            jax.random.fold_in(sampled, index),
            truth,
            texts=run.texts,
            tokens=run.tokens,
            top_k=run.top_k,
            quality_noise=run.quality_noise,
            dispersion=run.dispersion,
        )
        _check_dispatch(statistics, run)
        metadata = _metadata(run, run.steps[index])
        path = folder / f"{metadata.revision}.statistics.safetensors"
        write_trace(path, StatisticsTrace(metadata, statistics))
        checkpoints.append(_truth(truth, run.steps[index], path))
    found = {
        "mfgjax": mfgjax.__version__,
        "settings": dataclasses.asdict(run),
        "checkpoints": checkpoints,
    }
    with whole_file(folder / TRUTH) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")
    return found


def _check_dispatch(statistics: TextStatistics, run: SimulatedRun) -> None:
    """Systematic sampling drops tokens' choices where K times an expert's share passes 1."""
    chosen = np.asarray(statistics.dispatch_count.sum(-1))
    if (chosen != run.tokens * run.top_k).any():
        raise ValueError(
            f"some expert is wanted more than once per token at top_k {run.top_k} of {run.experts} "
            f"experts: lower top_k or load_spread (now {run.load_spread})"
        )


def _metadata(run: SimulatedRun, step: int) -> TraceMetadata:
    return TraceMetadata(
        kind="statistics",
        model="simulated",
        revision=f"step{step}",
        step=step,
        tokens_seen=None,
        experts=run.experts,
        top_k=run.top_k,
        layers=tuple(f"layers.{layer}.gate" for layer in range(run.layers)),
        texts_hash=f"simulated-{run.seed}",
        text_count=run.texts,
        versions={"mfgjax": mfgjax.__version__},
    )


def _truth(truth: RouterTruth, step: int, path: Path) -> dict[str, Any]:
    return {
        "step": step,
        "trace": path.name,
        "congestion": np.asarray(truth.congestion).tolist(),
        "quality": np.asarray(truth.quality).tolist(),
        "load": np.asarray(truth.load).tolist(),
    }
