"""What a dump without router logits is good for: loads, and nothing that needs a quality."""

import dataclasses
from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from mfgjax.trace.schema import TraceError
from mfgjax.trace.validate import check_distinct

MOST = 2**40
"""No dump holds more tokens; sums of such counts do not overflow."""
MOST_EXPERTS = 2**16
"""No router has more: a larger number would only take memory."""


@dataclasses.dataclass(frozen=True)
class LoadRecord:
    """Which experts served how many tokens, per resampling unit, without router logits.

    Load-based quantities (load, entropy, MaxVio, the resampling of either) can be computed. The
    effective congestion, the best response and everything that compares a load with a quality
    cannot: `statistics` says so.

    Attributes:
        source: the file or folder read.
        unit: what the `text` axis counts: "text", "sequence", "forward pass", "domain".
        layers: name per layer.
        top_k: K.
        token_count: `[text]` int64.
        dispatch_count: `[text, layer, expert]` int64, chosen experts.
        probability_sum: `[text, layer, expert]` sum of router probabilities, if the dump has it.
    """

    source: str
    unit: str
    layers: tuple[str, ...]
    top_k: int
    token_count: np.ndarray
    dispatch_count: np.ndarray
    probability_sum: np.ndarray | None = None

    def __post_init__(self):
        expected = (len(self.token_count), len(self.layers))
        if self.dispatch_count.ndim != 3 or self.dispatch_count.shape[:2] != expected:
            raise TraceError(
                f"{self.source}: counts have shape {self.dispatch_count.shape}, "
                f"({expected[0]}, {expected[1]}, expert) expected"
            )
        if not 1 <= self.top_k <= self.experts:
            raise TraceError(
                f"{self.source}: top_k is {self.top_k}; with {self.experts} experts it is 1 to "
                f"{self.experts}. Is it that of this model?"
            )
        for name, counts in (("tokens", self.token_count), ("choices", self.dispatch_count)):
            if counts.size and not 0 <= counts.min() <= counts.max() <= MOST:
                raise TraceError(
                    f"{self.source}: {counts.min()} to {counts.max()} {name} in a {self.unit}: no counts"
                )
        if not self.token_count.any():
            raise TraceError(f"{self.source}: no tokens were recorded")
        more = self.dispatch_count > self.token_count[:, None, None]
        if more.any():
            text, layer, expert = np.argwhere(more)[0]
            raise TraceError(
                f"{self.source}: {self.unit} {text}, {self.layers[layer]}: expert {expert} was chosen "
                f"{self.dispatch_count[text, layer, expert]} times by {self.token_count[text]} tokens of "
                f"top_k {self.top_k}, which is at most once per token. Is top_k that of this model?"
            )

    @property
    def experts(self) -> int:
        return self.dispatch_count.shape[-1]

    @property
    def load(self) -> np.ndarray:
        """`[layer, expert]` dispatch fraction over all units, summing to 1 per layer."""
        total = self.dispatch_count.sum(0)
        return total / total.sum(-1, keepdims=True)

    @property
    def statistics(self) -> NoReturn:
        """Always raises `TraceError`: there are no logits to estimate a quality from."""
        raise TraceError(
            f"{self.source}: loads only. This dump has no router logits, so quality, effective "
            "congestion and best response cannot be estimated from it; load, entropy and MaxVio can "
            "(LoadRecord.load). Record the logits too (Megatron: capture_logits), or run "
            "mfgjax-extract on the checkpoint."
        )


def count_choices(
    choices: Sequence[np.ndarray], experts: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """`(token_count, dispatch_count)` of texts given as `[token, layer, top_k]` indices.

    Raises:
        TraceError: an index outside `0..experts - 1`, or twice for a token; names text, token and
            layer.
    """
    if not choices[0].shape[2] <= experts <= MOST_EXPERTS:
        raise TraceError(
            f"{source}: {experts} experts, but {choices[0].shape[2]} chosen per token. Is the number "
            "of experts that of this model?"
        )
    for text, chosen in enumerate(choices):  # before memory is taken for that many experts
        check_indices(chosen, experts, f"{source}: text {text}")
    counts = np.zeros((len(choices), choices[0].shape[1], experts), np.int64)
    for text, chosen in enumerate(choices):
        for layer in range(chosen.shape[1]):
            counts[text, layer] = np.bincount(chosen[:, layer].ravel(), minlength=experts)
    return np.array([len(c) for c in choices], np.int64), counts


def check_indices(choices: np.ndarray, experts: int, where: str) -> None:
    """Raise `TraceError` unless all of `[token, layer, top_k]` are experts, different per token."""
    bad = (choices < 0) | (choices >= experts)
    if bad.any():
        token, layer, slot = np.argwhere(bad)[0]
        raise TraceError(
            f"{where}, token {token}, layer {layer}: expert index {choices[token, layer, slot]} outside "
            f"0..{experts - 1}. Is the number of experts ({experts}) that of this model?"
        )
    check_distinct(choices, where)
