"""Coupled layers against layers on their own, on measured logits (arXiv 2604.04230, Theorem 5.8).

Tokens are grouped by their favourite expert at layer l-1; the mean logits of a group at layer l are
the qualities that its tokens see, and make a `LayeredGame`. Routers do not look ahead: the coupled
equilibrium is what loads would be if they did, and the distance to it is what the per-layer model
would miss.

Logits are centred over experts, token by token. A constant on all experts of a layer changes no
choice there, but it does change the value of the expert before it; so Theorem 5.8's eps_l cannot
be read off a router without fixing such constants, and another convention gives another eps_l.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from mfgjax.equilibrium.layered import solve_layered, solve_layers_apart
from mfgjax.game.layered import LayeredGame
from mfgjax.game.precision import full_precision
from mfgjax.scope.bounds import coupling_bound, coupling_bound_without_contraction
from mfgjax.scope.continuation import favourite_experts, token_dispatch
from mfgjax.trace import TokenTrace


class Coupling(eqx.Module):
    """Per layer. Distances are L1, 0 to 2; temperature 1.

    Attributes:
        congestion: of the layer, as given; of all models.
        spread: eps_l of Theorem 5.8, in logits: how much what follows depends on the choice.
        distance: from the layer's own equilibrium, with the same tokens arriving, to the coupled one.
        bound: Theorem 5.8 on `distance`; infinite where vacuous.
        bound_without_contraction: `eps_l / 2`, for any congestion.
        mean_quality_distance: from the equilibrium at the mean logit, one type, to the coupled one:
            what the paper's per-layer fit misses. The theorem says nothing about it.
        own_error: from the layer's own equilibrium to the observed load.
        coupled_error: from the coupled equilibrium to the observed load.
        mean_quality_error: from the equilibrium at the mean logit to the observed load.
        status: the worst `mfgjax.equilibrium.Status` of the three solves.
    """

    congestion: Float[Array, "*batch layer"]
    spread: Float[Array, "*batch layer"]
    distance: Float[Array, "*batch layer"]
    bound: Float[Array, "*batch layer"]
    bound_without_contraction: Float[Array, "*batch layer"]
    mean_quality_distance: Float[Array, "*batch layer"]
    own_error: Float[Array, "*batch layer"]
    coupled_error: Float[Array, "*batch layer"]
    mean_quality_error: Float[Array, "*batch layer"]
    status: Int[Array, "*batch layer"]


def estimate_coupling(
    trace: TokenTrace,
    weights: Float[Array | np.ndarray, "resample text"],
    congestion: Float[Array | np.ndarray, "resample layer"],
    *,
    min_tokens: float = 10.0,
) -> Coupling:
    """Layers coupled and apart, from one checkpoint under each weighting of its texts.

    Args:
        trace: with at least two layers.
        weights: one row per resample (`mfgjax.estimate.unit_weights`, `resample_weights`).
        congestion: of each layer, >= 0 (`estimate_layers(...).congestion`): a
            negative one gives NaN and the status `BAD_INPUT`.
        min_tokens: groups of fewer tokens see the mean logits of all tokens.

    Returns:
        Batch axis `resample`.

    Raises:
        ValueError: for a trace of one layer.
    """
    if len(trace.metadata.layers) < 2:
        raise ValueError("coupling compares adjacent layers; this trace has one layer")
    # Arrays of NumPy go in: out here each operation would be a program to compile.
    logits = np.asarray(trace.logits, np.float32)
    token_weights = np.asarray(weights, np.float32)[:, trace.text]
    favourite, dispatch = favourite_experts(trace), token_dispatch(trace)
    gamma, least = np.asarray(congestion, np.float32), np.float32(min_tokens)
    return _over_rows(logits, favourite, dispatch, token_weights, gamma, least)


def layered_quality(
    logits: Float[Array, "token layer expert"],
    favourite: Int[Array, "token layer"],
    weight: Float[Array, " token"],
    min_tokens: float | Float[Array, ""] = 10.0,
) -> tuple[Float[Array, "layer expert"], Float[Array, "later previous expert"]]:
    """Mean logits of all tokens, and of those from each expert of the layer before.

    Args:
        logits: as the caller wants them centred.
        favourite: each token's expert of each layer.
        weight: times each token counts.
        min_tokens: groups of fewer tokens get the mean of all. Traced.
    """
    mean = jnp.einsum("t,tle->le", weight, logits) / weight.sum()

    def pair(came_from, arriving, common):
        member = jax.nn.one_hot(came_from, logits.shape[-1], dtype=logits.dtype) * weight[:, None]
        size = member.sum(0)[:, None]
        own = member.T @ arriving / jnp.maximum(size, 1)
        return jnp.where(size >= min_tokens, own, common[None])

    later = jax.vmap(pair, in_axes=(1, 1, 0))(favourite[:, :-1], logits[:, 1:], mean[1:])
    return mean, later


@jax.jit
@full_precision
def _over_rows(logits, favourite, dispatch, token_weights, congestion, min_tokens):
    logits = logits - logits.mean(-1, keepdims=True)

    def row(inputs):
        weight, congestion = inputs
        mean, later = layered_quality(logits, favourite, weight, min_tokens)
        load = jnp.einsum("t,tle->le", weight, dispatch)
        load = load / load.sum(-1, keepdims=True)
        return _compare(LayeredGame(mean[0], later, congestion), mean, load)

    return lax.map(row, (token_weights, congestion))


def _compare(game: LayeredGame, mean, load) -> Coupling:
    coupled = solve_layered(game)
    # The game at mean logits has equal rows. Solved as the other is, it compiles once for both.
    even = jnp.broadcast_to(mean[1:, None], game.quality.shape)
    quality = jnp.stack([game.quality, even])

    def solve(quality):
        return solve_layers_apart(LayeredGame(mean[0], quality, game.congestion), coupled.load)

    solved = jax.vmap(solve)(quality)
    apart, simple = (jax.tree.map(lambda leaf, k=k: leaf[k], solved) for k in (0, 1))

    def between(a, b):
        return jnp.abs(a - b).sum(-1)

    return Coupling(
        congestion=game.congestion,
        spread=coupled.spread,
        distance=between(apart.load, coupled.load),
        bound=coupling_bound(coupled.spread, game.congestion),
        bound_without_contraction=coupling_bound_without_contraction(coupled.spread),
        mean_quality_distance=between(simple.load, coupled.load),
        own_error=between(apart.load, load),
        coupled_error=between(coupled.load, load),
        mean_quality_error=between(simple.load, load),
        status=jnp.maximum(jnp.maximum(apart.status, simple.status), coupled.status),
    )
