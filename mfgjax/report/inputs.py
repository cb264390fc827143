"""What the sections of a report share: read once, estimated once, and only where a section asks."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
import xarray as xr
from jaxtyping import Float

from mfgjax.comparison import compare_static
from mfgjax.comparison.compare import StaticComparison
from mfgjax.dynamics.trajectory import Trajectory
from mfgjax.estimate.inference.sensitivity import SensitivityTable, estimate_sensitivity
from mfgjax.estimate.inference.token_quality import TokenStatistics, with_tokens
from mfgjax.estimate.inference.weights import refuse_few_texts, resample_weights
from mfgjax.price.run_price import read_run_price
from mfgjax.report.price_rows import with_price
from mfgjax.trace import TokenTrace, TraceError, read_sweep
from mfgjax.trace.schema import TextStatistics
from mfgjax.trace.sweep import Sweep, read_token_traces
from mfgjax.tracking import track_sweep

# In one program: each operation by itself would be one to compile.
_draw = jax.jit(resample_weights, static_argnums=(1, 2))


@dataclasses.dataclass(frozen=True)
class Inputs:
    """A folder of traces and the settings of its report; everything else follows when asked for.

    Attributes:
        traces: folder of trace files, one per checkpoint.
        stream: `"decoder"` or `"encoder"`.
        resamples: bootstrap resamples of the texts.
        seed: of every random draw.
        confidence: level of the intervals, in (0, 1).
        types: numbers of token types of the multi-type models.
        strong: congestion from which a layer is in the strong group of the decomposition.
        objectives: of the sensitivity.
        memory: bytes that the device may use for a block of resamples.
        progress: wraps the iteration over checkpoints.
    """

    traces: str | Path
    stream: str = "decoder"
    resamples: int = 500
    seed: int = 0
    confidence: float = 0.95
    types: tuple[int, ...] = (2, 4, 8)
    strong: float = 30.0
    objectives: tuple[str, ...] = ("l1", "kl")
    memory: float = 1e9
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints

    @cached_property
    def sweep(self) -> Sweep:
        """Per-text sums of every checkpoint."""
        sweep = read_sweep(self.traces, self.stream)
        refuse_few_texts(self.traces, sweep.checkpoints[0].text_count)
        return sweep

    @cached_property
    def tokens(self) -> tuple[TokenTrace, ...]:
        """Checkpoints that come with token logits, in training order."""
        return tuple(read_token_traces(self.traces, self.stream))

    @property
    def token_index(self) -> int:
        """Which checkpoint of the sweep is the last with token logits; there must be one."""
        revisions = [own.revision for own in self.sweep.checkpoints]
        return revisions.index(self.tokens[-1].metadata.revision)

    @cached_property
    def _tracked(self) -> tuple[Trajectory, xr.Dataset]:
        return track_sweep(
            self.sweep,
            resamples=self.resamples,
            seed=self.seed,
            confidence=self.confidence,
            memory=self.memory,
            progress=self.progress,
        )

    @property
    def trajectory(self) -> Trajectory:
        """Estimates of every checkpoint, without labels."""
        return self._tracked[0]

    @cached_property
    def dataset(self) -> xr.Dataset:
        """The same with labels, as `mfgjax.track` returns it."""
        price = read_run_price(self.traces, stream=self.stream, level=self.confidence)
        return with_price(self._tracked[1], price)

    @cached_property
    def weights(self) -> Float[np.ndarray, "resample text"]:
        """All texts in row 0, then the resamples behind `trajectory`."""
        count = self.sweep.statistics.token_count
        texts = count.shape[1]
        drawn = _draw(jax.random.key(self.seed), texts, self.resamples)
        return np.concatenate([np.ones((1, texts)), drawn]).astype(count.dtype)

    @property
    def last(self) -> TextStatistics:
        """Sums of the last checkpoint."""
        return jax.tree.map(lambda leaf: leaf[-1], self.sweep.statistics)

    def congestion(self, index: int) -> Float[np.ndarray, "resample layer"]:
        """Effective congestion of a checkpoint under each row of `weights`."""
        found = self.trajectory
        own, drawn = found.estimate.congestion[index], found.resampled.congestion[:, index]
        return np.concatenate([np.asarray(own)[None], np.asarray(drawn)])

    @cached_property
    def comparison(self) -> StaticComparison:
        """Held-out models of the last checkpoint with token logits; there must be one."""
        return compare_static(
            self.tokens[-1], types=self.types, resamples=self.resamples, seed=self.seed
        )

    @cached_property
    def sensitivity(self) -> SensitivityTable:
        """Every quality under `objectives`; median and trimmed mean where there are tokens."""
        by_revision = {trace.metadata.revision: trace for trace in self.tokens}

        def tokens_of(index: int, statistics: TextStatistics) -> TokenStatistics | None:
            own = self.sweep.checkpoints[index]
            trace = by_revision.get(own.revision)
            if trace is None:
                return None
            if trace.metadata.texts_hash != own.texts_hash:
                raise TraceError(
                    f"{self.traces}: the tokens of {own.revision} are of other texts than its "
                    "statistics. Delete one of the two and extract it again."
                )
            return with_tokens(statistics, trace.logits, trace.text)

        return estimate_sensitivity(
            self.sweep.statistics,
            tokens_of,
            objectives=self.objectives,
            reference=("l1", "mean"),
            progress=self.progress,
        )
