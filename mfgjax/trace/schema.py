"""The trace format, version 1: what one checkpoint's routers did on a set of texts.

A trace is one safetensors file. Its `__metadata__` holds one key, `mfgjax_trace`, a JSON object
with the fields of `TraceMetadata`. There are two kinds, told apart by `kind`:

`tokens` keeps every token:

| tensor | shape | type | meaning |
|---|---|---|---|
| `logits` | token, layer, expert | float16, float32 | raw router logits |
| `choices` | token, layer, top_k | uint8, uint16, int32 | experts the model really used, all different |
| `text` | token | int32 | which text the token is of, non-decreasing |
| `selection_bias` | layer, expert | float32 | optional: added before top-k only |
| `dispatched` | token, layer, top_k | uint8 | optional: 0 where capacity dropped the choice |

`statistics` keeps sums over each text, enough for the mean quality and every bootstrap over texts:

| tensor | shape | type | meaning |
|---|---|---|---|
| `token_count` | text | int32 | tokens of the text |
| `logit_sum` | text, layer, expert | float32 | sum of raw logits |
| `centred_square_sum` | text, layer, expert | float32 | sum of squared centred logits |
| `dispatch_count` | text, layer, expert | int32 | times the expert was chosen, at most once per token |
| `probability_sum` | text, layer, expert | float32 | sum of softmax(logits) |
| `selection_bias` | layer, expert | float32 | optional, as above |
| `dispatched_count` | text, layer, expert | int32 | optional: chosen and within capacity |
| `choice_bound` | block, layer, expert, expert | float32 | optional: bounds on bias differences |

A centred logit is the raw logit minus the token's mean over experts. Top-k and softmax ignore
that mean, so the dispersion that the null of `mfgjax.estimate` reads must ignore it too.

`choice_bound[b, l, i, j]` is the largest lower bound of `bias_i - bias_j` that a token of block b gives
by choosing i and not j: the largest `score_j - score_i`, lowered by every rounding the router may have
made (but for the one that grows with the bias itself), and rounded down; -inf where no token compares
the two. Text t is of block `t * blocks // text_count`; blocks merge by maximum. `routing.selection_score`
names, per layer, what the bias is added to (`logits`, `softmax`, `sigmoid`, `sqrtsoftplus`, or `unknown`:
no bounds), `routing.selection_unit` the unit roundoff of that sum, and `routing.selection_groups` the
number of expert groups and of chosen groups, where only chosen groups compare. The size is
4 x blocks x layers x experts^2 bytes: 2 MiB for 8 blocks of 16 layers of 64 experts, 29 MiB for 2 blocks
of 58 layers of 256.

Files are named `<label>.tokens.safetensors` and `<label>.statistics.safetensors`.
"""

import dataclasses
import json
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

FORMAT = "mfgjax-trace"
VERSION = 1
METADATA_KEY = "mfgjax_trace"
KINDS = ("tokens", "statistics")
STREAMS = ("decoder", "encoder")


_LONGEST_MESSAGE = 1000


class TraceError(ValueError):
    """A trace that cannot be used. The message names the file, the tensor and the remedy.

    What it quotes of the file may be megabytes: the middle of a long message is left out.
    """

    def __init__(self, message: str):
        if len(message) > _LONGEST_MESSAGE:
            half = _LONGEST_MESSAGE // 2
            message = f"{message[:half]} [...] {message[-half:]}"
        super().__init__(message)


@dataclasses.dataclass(frozen=True)
class TraceMetadata:
    """What a trace is of.

    Attributes:
        kind: `"tokens"` or `"statistics"`.
        model: hub id or folder of the model.
        revision: checkpoint name, as the hub or the training run calls it.
        step: optimiser steps taken; None where the revision does not say.
        tokens_seen: training tokens seen; None where the revision does not say.
        experts: experts per layer, M.
        top_k: experts per token, K.
        aux_loss_coef: auxiliary loss coefficient alpha of the training run; None if it had none.
        scoring: how the router scores, e.g. `"softmax"`, `"sigmoid"`.
        layers: module path of each MoE layer, in order.
        stream: `"decoder"` (also the only stack of an encoder-only model) or `"encoder"`.
        tokenizer_hash: identifies the tokenizer; None if texts were given as token ids.
        texts_hash: identifies the texts: traces with equal hashes can be resampled in pairs.
        text_count: number of texts.
        dtype: type the model ran in.
        versions: versions of the libraries that wrote the trace.
        routing: what else decides the choice: groups, capacity, selection bias, ...
    """

    kind: str
    model: str
    revision: str
    experts: int
    top_k: int
    layers: tuple[str, ...]
    texts_hash: str
    text_count: int
    step: int | None = None
    tokens_seen: int | None = None
    aux_loss_coef: float | None = None
    scoring: str = "softmax"
    stream: str = "decoder"
    tokenizer_hash: str | None = None
    dtype: str = "float32"
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    routing: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        fields = dataclasses.asdict(self) | {"layers": list(self.layers)}
        return json.dumps({"format": FORMAT, "version": VERSION} | fields, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> "TraceMetadata":
        """Parse the metadata of `source`; raises `TraceError`."""
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TraceError(
                f"{source}: metadata is not JSON ({error}). Extract it again."
            ) from None
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise TraceError(
                f"{source}: not an mfgjax trace (metadata names no format {FORMAT!r})."
            )
        if raw.get("version") != VERSION:
            raise TraceError(
                f"{source}: trace format version {raw.get('version')!r}, this mfgjax reads version "
                f"{VERSION}. Upgrade mfgjax (pip install -U mfgjax) or extract the trace again."
            )
        known = {field.name for field in dataclasses.fields(cls)}
        given: dict[str, Any] = {name: value for name, value in raw.items() if name in known}
        if isinstance(given.get("layers"), list):
            given["layers"] = tuple(given["layers"])
        try:
            return cls(**given)
        except TypeError as error:
            raise TraceError(
                f"{source}: incomplete metadata ({error}). Extract it again."
            ) from None


class TextStatistics(eqx.Module):
    """Per-text sums of one checkpoint: a pytree, ready for jit; batch over checkpoints by stacking.

    Sums are in logit units and counts of tokens. `dispatch_count` sums to `top_k` per token.
    """

    token_count: Float[Array, "*batch text"]
    logit_sum: Float[Array, "*batch text layer expert"]
    centred_square_sum: Float[Array, "*batch text layer expert"]
    dispatch_count: Float[Array, "*batch text layer expert"]
    probability_sum: Float[Array, "*batch text layer expert"]


@dataclasses.dataclass(frozen=True)
class TokenTrace:
    """A trace of kind `tokens`, on the host; shapes and meanings as in the module's table."""

    metadata: TraceMetadata
    logits: np.ndarray
    choices: np.ndarray
    text: np.ndarray
    selection_bias: np.ndarray | None = None
    dispatched: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class StatisticsTrace:
    """A trace of kind `statistics`: the sums, and what they are of."""

    metadata: TraceMetadata
    statistics: TextStatistics
    selection_bias: np.ndarray | None = None
    dispatched_count: np.ndarray | None = None
    choice_bound: np.ndarray | None = None
