"""Two routers on the same tokens: which choices they share, and how far their gates are apart.

Experts must bear the same numbers on both sides: two checkpoints of one run, a model and what was made
from it.
"""

import dataclasses
from pathlib import Path

import numpy as np
from scipy.special import logsumexp, stdtrit

from mfgjax.trace.schema import TokenTrace, TraceError
from mfgjax.trace.storage import read_metadata, read_trace
from mfgjax.trace.sweep import token_files, trace_files

ROWS = 1 << 16
"""Tokens looked at together: what memory is needed for."""


@dataclasses.dataclass(frozen=True)
class TokenShift:
    """Sums over the tokens of each text.

    Attributes:
        tokens: tokens of each text, `[text]`.
        shared: share of the first's top-K that the second chooses too, summed, `[text, layer]`.
        divergence: KL of the second's gate from the first's, summed, in nats, `[text, layer]`. The gate is
            the softmax of the logits over all experts, whatever the router makes of them.
    """

    tokens: np.ndarray
    shared: np.ndarray
    divergence: np.ndarray

    def means(self, level: float) -> dict[str, np.ndarray]:
        """Mean over tokens of `agreement` and `router_kl`, each `[layer, (value, low, high)]`.

        The interval is Student's t over texts, of the ratio of sums, cut off where no value can lie.
        """
        found = {}
        ends = {"agreement": (self.shared, 1.0), "router_kl": (self.divergence, np.inf)}
        filled = self.tokens > 0
        weight = self.tokens[filled, None] / self.tokens[filled].mean()
        texts = int(filled.sum())
        for name, (sums, most) in ends.items():
            mean = sums.sum(0) / self.tokens.sum()
            off = sums[filled] / self.tokens[filled].mean() - weight * mean
            reach = stdtrit(texts - 1, 0.5 + level / 2) * off.std(0, ddof=1) / np.sqrt(texts)
            found[name] = np.stack(
                [mean, np.maximum(mean - reach, 0), np.minimum(mean + reach, most)], -1
            )
        return found


def token_shift(first: TokenTrace, second: TokenTrace) -> TokenShift:
    """Compare two token traces token by token.

    Raises:
        TraceError: other texts, tokens, layers or experts.
    """
    a, b = first.metadata, second.metadata
    same = a.texts_hash == b.texts_hash and np.array_equal(first.text, second.text)
    if not same or first.logits.shape != second.logits.shape:
        raise TraceError(
            f"{a.revision} and {b.revision} hold other tokens ({first.logits.shape} and "
            f"{second.logits.shape}, token, layer, expert): extract both from the same texts."
        )
    texts, layers = a.text_count, first.logits.shape[1]
    shared, divergence = np.zeros((texts, layers)), np.zeros((texts, layers))
    top_k = first.choices.shape[-1]
    for start in range(0, len(first.text), ROWS):
        rows = slice(start, start + ROWS)
        ours, theirs = first.choices[rows, :, :, None], second.choices[rows, :, None, :]
        both = (ours == theirs).any(-1).sum(-1) / top_k
        logs = []
        for trace in (first, second):
            z = np.asarray(trace.logits[rows], np.float64)
            logs.append(z - np.asarray(logsumexp(z, axis=-1, keepdims=True)))
        far = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)
        np.add.at(shared, first.text[rows], both)
        np.add.at(divergence, first.text[rows], far)
    return TokenShift(np.bincount(first.text, minlength=texts), shared, divergence)


def tokens_beside(path: str | Path, stream: str = "decoder") -> TokenTrace | None:
    """Every token of a trace file, or of the last checkpoint of a folder; None if they are not kept."""
    path = Path(path)
    if path.is_dir():
        path = trace_files(path, stream)[-1]
    if read_metadata(path).kind != "tokens":
        path = path.with_name(path.name.replace(".statistics.", ".tokens."))
    if not path.is_file() or read_metadata(path).kind != "tokens":
        return None
    trace = read_trace(path)
    return trace if isinstance(trace, TokenTrace) else None


def teacher_agreement(folder: str | Path, stream: str = "decoder") -> dict[str, list[float]]:
    """Top-K agreement with the teacher, per layer, of every checkpoint of a slimming run.

    A run has a teacher where its first checkpoint is named so (`step0-teacher`, as `mfgjax-extract slim`
    does).

    Returns:
        By revision, without the teacher; empty if `folder` is no such run or keeps no tokens.
    """
    files = token_files(folder, stream)
    teachers = [name for name in files if name.endswith("-teacher")]
    if len(teachers) != 1:
        return {}
    teacher = read_trace(files.pop(teachers[0]))
    found = {}
    for name, path in files.items():
        trace = read_trace(path)
        assert isinstance(trace, TokenTrace) and isinstance(teacher, TokenTrace)
        shift = token_shift(teacher, trace)
        found[name] = (shift.shared.sum(0) / shift.tokens.sum()).tolist()
    return found
