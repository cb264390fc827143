"""What choices say of the price: the largest lower bound of every difference of selection biases.

A token that chose i and not j says `bias_i + score_i >= bias_j + score_j`, in the router's arithmetic. The
bounds are lowered by every rounding between that arithmetic and the numbers at hand: of the stored logits
(half a unit in the last place), of the score function, of the sum (but for the part that grows with the
bias itself, which the reader of the bounds adds), and of our own float32 where x64 is off.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mfgjax.trace.schema import TokenTrace, TraceError, TraceMetadata

SCORES = ("logits", "softmax", "sigmoid", "sqrtsoftplus")
_FLOAT32_UNIT = 2.0**-24
_UNITS = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


@dataclasses.dataclass(frozen=True)
class SelectionRule:
    """How a router ranks experts; hashable, so static under jit.

    Attributes:
        score: what the price is added to, one of `SCORES`.
        unit: unit roundoff of the type in which the price is added to it.
        groups: `(groups, groups chosen)` where only experts of chosen groups compare.
        function: what is ranked where no bias is added to it: the price is then sought in logits, and the
            rounding of this function allowed for.
    """

    score: str = "logits"
    unit: float = _FLOAT32_UNIT
    groups: tuple[int, int] | None = None
    function: str | None = None

    def __post_init__(self):
        for name in (self.score, self.function or "logits"):
            if name not in SCORES:
                raise TraceError(
                    f"unknown score {name!r}, one of {', '.join(SCORES)} was expected: with another "
                    "rule the bounds would be wrong. Extract the trace again to have it seen."
                )


def selection_rule(metadata: TraceMetadata, layer: int, biased: bool) -> SelectionRule:
    """The rule of one layer of a trace.

    Args:
        metadata: of the trace. Those written before `routing.selection_score` have a rule only where
            no bias and no groups are in play.
        layer: its number.
        biased: whether the trace holds a selection bias.

    Raises:
        TraceError: a rule that the trace does not name.
    """
    routing = metadata.routing
    where = f"layer {layer} ({metadata.layers[layer]}) of {metadata.model}"
    function = None if biased else metadata.scoring.removesuffix("-after-topk")
    if metadata.scoring.endswith("-after-topk") or function not in SCORES:
        function = None
    if "selection_score" not in routing:
        if biased or routing.get("n_group") or metadata.scoring == "unknown":
            raise TraceError(
                f"{where}: the trace does not say what its selection bias is added to. Extract it again, "
                "or pass rule=SelectionRule(...)."
            )
        return SelectionRule(function=function)
    score = routing["selection_score"][layer]
    if score not in SCORES:
        raise TraceError(
            f"{where}: what its choices rank could not be seen (a hash, a draw, a capacity, a function "
            "that is not known). Choices reveal no price there: leave the layer out."
        )
    groups = routing["selection_groups"][layer]
    return SelectionRule(
        score, routing["selection_unit"][layer], tuple(groups) if groups else None, function
    )


def logit_rounding(logits: np.ndarray, computed_in: str) -> np.ndarray:
    """Most that each stored logit can be off what the router ranked, half a unit in the last place.

    Args:
        logits: as stored, float16 or float32 (float64 counts as exact).
        computed_in: type of the router's own logits: one that the stored type holds exactly adds nothing.
    """
    if logits.dtype == np.float64 or logits.dtype.name == computed_in:
        return np.zeros(logits.shape, np.float32)
    if logits.dtype == np.float32:
        return np.zeros(logits.shape, np.float32) if computed_in in _UNITS else _half(logits)
    if computed_in == "bfloat16":  # 8 bits fit in 11, but for float16's subnormals
        return np.full(logits.shape, 2.0**-25, np.float32)
    return _half(logits)


def _half(logits: np.ndarray) -> np.ndarray:
    return np.spacing(np.abs(logits)).astype(np.float32) / 2


@partial(jax.jit, static_argnames=("blocks", "rule"))
def choice_bound(
    logits: Float[Array, "token expert"],
    choices: Int[Array, "token top_k"],
    block: Int[Array, " token"],
    rounding: Float[Array, "token expert"],
    blocks: int,
    rule: SelectionRule,
) -> Float[Array, "block expert expert"]:
    """Lower bounds of `bias_i - bias_j` per block, -inf where no token tells; one pass over tokens.

    Work grows like token x top_k x expert; nothing of size token x expert x expert is made. Bounds of
    batches of tokens merge by maximum.

    Args:
        logits: as stored, float32 or float64.
        choices: experts really used.
        block: of each token; out of range (padding) counts nowhere.
        rounding: most that each logit can be off, from `logit_rounding`.
        blocks: how many, static.
        rule: static.
    """
    experts = logits.shape[-1]
    choices = choices.astype(jnp.int32)
    low, high = _scores(logits, rounding.astype(logits.dtype), rule)
    here = jnp.arange(len(logits))[:, None]
    high = jnp.take_along_axis(high, choices, axis=-1)
    low = low.at[here, choices].set(-jnp.inf)
    if rule.groups is not None:
        count, limit = rule.groups
        used = jnp.zeros((len(logits), count), bool)
        used = used.at[here, choices // (experts // count)].set(True)
        low = jnp.where(jnp.repeat(used, experts // count, axis=-1), low, -jnp.inf)
        # More groups than can be chosen: an expert of a masked group was taken, by no comparison.
        high = jnp.where(used.sum(-1, keepdims=True) > limit, jnp.inf, high)
    row = jnp.where((block >= 0) & (block < blocks), block * experts, -experts)

    def slot(k, found):
        given = jax.ops.segment_max(low - high[:, k, None], row + choices[:, k], blocks * experts)
        return jnp.maximum(found, given)

    start = jnp.full((blocks * experts, experts), -jnp.inf, logits.dtype)
    found = jax.lax.fori_loop(0, choices.shape[-1], slot, start)
    return found.reshape(blocks, experts, experts)


def _scores(logits, rounding, rule: SelectionRule):
    """Bounds `(low, high)` on what the router ranked, for each logit."""
    own = float(jnp.finfo(logits.dtype).eps) / 2
    steps = {
        "softmax": 16 + logits.shape[-1] + (logits.max(-1, keepdims=True) - logits),
        "logits": jnp.zeros_like(logits),
    }
    function = rule.function if rule.score == "logits" and rule.function else rule.score
    relative = steps.get(function, jnp.full_like(logits, 8.0)) * (_FLOAT32_UNIT + own)
    relative += 2 * rule.unit if rule.score != "logits" or function != "logits" else 0
    if rule.score == "logits":
        error = rounding + (relative / _relative_slope(logits, function) if rule.function else 0)
        error += 0 if rule.function else rule.unit * jnp.abs(logits)
        low, high = logits - error, logits + error
    elif rule.score == "softmax":
        most = rounding.max(-1, keepdims=True) + rounding
        score = jax.nn.softmax(logits, axis=-1)
        low, high = score * (jnp.exp(-most) - relative), score * (jnp.exp(most) + relative)
    else:
        score = jax.nn.sigmoid if rule.score == "sigmoid" else _root_softplus
        low = score(logits - rounding) * (1 - relative)
        high = score(logits + rounding) * (1 + relative)
    return low - 8 * own * jnp.abs(low), high + 8 * own * jnp.abs(high)


def _root_softplus(logits):
    return jnp.sqrt(jax.nn.softplus(logits))


def _relative_slope(logits, function: str):
    """d log(score) / d logit, the normaliser of the softmax held."""
    if function == "sigmoid":
        return jax.nn.sigmoid(-logits)
    if function == "sqrtsoftplus":
        return jax.nn.sigmoid(logits) / (2 * jax.nn.softplus(logits))
    return jnp.ones_like(logits)


def choice_bound_of(trace: TokenTrace, layer: int, blocks: int, rule: SelectionRule) -> np.ndarray:
    """`choice_bound` of one layer of a trace of tokens, `[block, expert, expert]`, on the host."""
    stored = trace.logits[:, layer]
    rounding = logit_rounding(stored, trace.metadata.routing.get("logit_dtype_in_model", "unknown"))
    wide = np.float64 if jax.config.read("jax_enable_x64") else np.float32
    block = trace.text.astype(np.int64) * blocks // trace.metadata.text_count
    found = choice_bound(  # arrays of NumPy: each `jnp.asarray` would be a program to compile
        stored.astype(wide),
        trace.choices[:, layer].astype(np.int32),
        block.astype(np.int32),
        rounding,
        blocks,
        rule,
    )
    return np.asarray(found)


def choice_bounds_of(trace: TokenTrace, blocks: int) -> np.ndarray:
    """Bounds of all layers as a trace stores them, `[block, layer, expert, expert]` float32.

    Raises:
        TraceError: no layer has a rule that the trace names.
    """
    biased = trace.selection_bias is not None
    shape = (blocks, len(trace.metadata.layers), trace.metadata.experts, trace.metadata.experts)
    found = np.full(shape, -np.inf, np.float32)
    refusals = []
    for layer in range(shape[1]):
        try:
            rule = selection_rule(trace.metadata, layer, biased)
        except TraceError as refusal:
            refusals.append(refusal)
            continue
        found[:, layer] = round_down(choice_bound_of(trace, layer, blocks, rule))
    if len(refusals) == shape[1]:
        raise refusals[0]
    return found


def round_down(bound: np.ndarray) -> np.ndarray:
    """float32 of `bound`, never above it: what a trace stores."""
    stored = bound.astype(np.float32)
    return np.where(stored > bound, np.nextafter(stored, np.float32(-np.inf)), stored)
