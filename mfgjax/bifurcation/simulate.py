"""The discrete reinforcement rule, simulated: tokens choose, the chosen expert gains score.

Rule (1) of `mfgjax.bifurcation.router`. Small steps follow the mean field; the noise that is left has
size `step_size / batch_size`, which smears the threshold (`mfgjax.bifurcation.smearing`).
"""

import enum

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from mfgjax.bifurcation.router import ReinforcedRouter


class Routing(enum.Enum):
    """How a token chooses its expert."""

    SOFTMAX = "softmax"
    """Sampled from softmax(sharpness * score + bias)."""
    NOISY_TOP1 = "noisy top-1"
    """The largest of score + bias / sharpness + independent Gaussian noise."""


class Run(eqx.Module):
    """A simulated router, recorded every `record_every` steps.

    Attributes:
        score: scores at the end of each record.
        load: dispatch fractions, averaged over the steps of each record.
    """

    score: Float[Array, "*batch record experts"]
    load: Float[Array, "*batch record experts"]


def simulate_router(
    router: ReinforcedRouter,
    key: PRNGKeyArray,
    score: Float[Array, " experts"],
    step_size: Float[Array, ""] | float,
    *,
    records: int,
    record_every: int,
    batch_size: int = 1,
    routing: Routing = Routing.SOFTMAX,
    token_noise: Float[Array, ""] | float = 0.0,
    aux_loss_coef: Float[Array, ""] | float = 0.0,
    bias_path: Float[Array, "records experts"] | None = None,
) -> Run:
    """Run the rule for `records * record_every` steps; `jax.vmap` over keys, routers, step sizes.

    Args:
        router: one router.
        key: random key.
        score: scores to start from.
        step_size: eta, in units of time; traced. The rule needs `step_size * decay < 1`.
        records, record_every: static numbers of records and of steps in each.
        batch_size: static number of tokens per step.
        routing: static.
        token_noise: standard deviation of the noise on each expert's score; the score gap of two
            experts has sqrt(2) times it. Only for `NOISY_TOP1`.
        aux_loss_coef: strength of a Switch auxiliary loss on which the scores take a gradient step
            of the same size, with the batch's dispatch fractions held constant.
        bias_path: added to the bias during each record: a slow sweep.

    Returns:
        A `Run`. Not differentiable in a useful way: tokens are counted.
    """
    size = router.bias.shape[0]
    shift = jnp.zeros((records, size), score.dtype) if bias_path is None else bias_path

    def logits_of(score, bias):
        return router.sharpness * score + bias

    def shares(key, score, bias):
        if routing is Routing.SOFTMAX:
            # one uniform per token, located on the cumulative probabilities
            edges = jnp.cumsum(jax.nn.softmax(logits_of(score, bias)))
            draw = jax.random.uniform(key, (batch_size, 1), score.dtype)
            below = (draw < edges[None, :-1]).mean(axis=0, dtype=score.dtype)
            ends = jnp.concatenate([jnp.zeros_like(below[:1]), below, jnp.ones_like(below[:1])])
            return jnp.diff(ends)
        noise = jax.random.normal(key, (batch_size, size), score.dtype)
        seen = (score + bias / router.sharpness)[None, :] + token_noise * noise
        return jax.nn.one_hot(seen.argmax(axis=1), size, dtype=score.dtype).mean(axis=0)

    def balance_force(score, bias, share):
        probability = jax.nn.softmax(logits_of(score, bias))
        pull = probability * (share - probability @ share)
        return aux_loss_coef * size * router.sharpness * pull

    def step(carry, key):
        score, bias, total = carry
        share = shares(key, score, bias)
        rate = router.increment * share - router.decay * score - balance_force(score, bias, share)
        return (score + step_size * rate, bias, total + share), None

    def record(score, inputs):
        key, extra = inputs
        begin = (score, router.bias + extra, jnp.zeros_like(score))
        (score, _, total), _ = lax.scan(step, begin, jax.random.split(key, record_every))
        return score, (score, total / record_every)

    _, (scores, loads) = lax.scan(record, score, (jax.random.split(key, records), shift))
    return Run(score=scores, load=loads)
