"""A small two-expert MoE layer (flax) whose router is reinforced at a set strength while it trains.

Experts and the content gate learn by gradient descent; the scores follow the reinforcement rule on the
batch's dispatch fractions, so the feedback strength is a dial. A token of content logit `c` goes to
expert 1 with probability sigmoid(score gap + c), or, with noisy top-1, where score gap + c + noise > 0.
Half the score gap `z` then obeys `z' = strength E[g(z + c / 2)] - z`, without content the model of
`mfgjax.bifurcation.two_expert`. Derived here, after the experiments named in arXiv 2605.29121.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from mfgjax.bifurcation.response import NOISY_TOP1, SOFTMAX, Response
from mfgjax.bifurcation.simulate import Routing

GAP_NOISE = 2.0 * (2.0 / jnp.pi) ** 0.5
"""Noise of the score gap that puts the threshold of noisy top-1 at strength 1, in logits."""


CONTENT_BOUND = 2.0
"""Largest content logit: the most that what a token says can move its choice."""


class _Expert(nn.Module):
    hidden: int
    outputs: int

    @nn.compact
    def __call__(self, inputs):
        return nn.Dense(self.outputs)(nn.relu(nn.Dense(self.hidden)(inputs)))


class TwoExpertLayer(nn.Module):
    """Two experts of one hidden layer and, if `content`, a gate that reads the token.

    Returns per-expert outputs [2, token, outputs] and content logits [token].
    """

    hidden: int
    outputs: int
    content: bool

    @nn.compact
    def __call__(self, inputs):
        experts = nn.vmap(
            _Expert,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=0,
            axis_size=2,
        )(self.hidden, self.outputs)
        if not self.content:
            return experts(inputs), jnp.zeros_like(inputs[:, 0])
        gate = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.normal(0.1))(inputs)[:, 0]
        # centred and bounded: the gate sorts tokens, but is no asymmetry and cannot outgrow the scores
        return experts(inputs), CONTENT_BOUND * jnp.tanh(gate - gate.mean())


class Training(NamedTuple):
    """Settings of one training run; all static.

    Attributes:
        steps, batch_size: number of gradient steps and tokens in each.
        hidden: width of an expert.
        content: whether the gate reads the token.
        routing: softmax or noisy top-1.
        step_size: of the reinforcement rule, per gradient step, in decay times.
        learning_rate: of Adam, experts and gate.
        aux_loss_coef: auxiliary balance loss on the scores and the gate.
    """

    steps: int = 3000
    batch_size: int = 32
    hidden: int = 8
    content: bool = False
    routing: Routing = Routing.SOFTMAX
    step_size: float = 0.05
    learning_rate: float = 0.01
    aux_loss_coef: float = 0.0

    @property
    def response(self) -> Response:
        return SOFTMAX if self.routing is Routing.SOFTMAX else NOISY_TOP1


class TrainedRun(NamedTuple):
    """What a run ends with.

    Attributes:
        load_gap: load of expert 1 minus load of expert 2, counted over the last quarter of training.
        imbalance: mean absolute load gap that the scores imply (no counting noise), same quarter.
        gap: half the score gap at the end.
        accuracy: share of held-out tokens classified right, each by its more probable expert.
        content: content logits of the held-out tokens.
    """

    load_gap: Float[Array, ""]
    imbalance: Float[Array, ""]
    gap: Float[Array, ""]
    accuracy: Float[Array, ""]
    content: Float[Array, " held"]


def train_two_experts(
    key: PRNGKeyArray,
    strength: Float[Array, ""],
    inputs: Float[Array, "token features"],
    labels: Int[Array, " token"],
    held_inputs: Float[Array, "held features"],
    held_labels: Int[Array, " held"],
    *,
    classes: int,
    training: Training,
) -> TrainedRun:
    """Train one layer as a classifier at one feedback strength; `jax.vmap` over keys and strengths."""
    layer = TwoExpertLayer(training.hidden, classes, training.content)
    start_key, side_key, steps_key = jax.random.split(key, 3)
    params = layer.init(start_key, inputs[:1])
    optimiser = optax.adam(training.learning_rate)
    # a small kick, or a run below and one at the threshold would be told apart by nothing
    gap = 0.05 * jax.random.normal(side_key, (), inputs.dtype)

    def loss_of(params, gap, batch, key):
        outputs, content = _read(layer, params, batch[0])
        logit = 2.0 * gap + content
        chance = jax.nn.sigmoid(logit)
        first = _choose(key, lax.stop_gradient(logit), training.routing)
        share = first.mean(dtype=logit.dtype)
        taken = jnp.where(first, chance, 1.0 - chance)
        output = jnp.where(first[:, None], outputs[0], outputs[1])
        # value as it is, gradient through the probability of the expert that was taken
        output = output * (taken / lax.stop_gradient(taken))[:, None]
        nll = optax.softmax_cross_entropy_with_integer_labels(output, batch[1]).mean()
        balance = 2.0 * (share * chance.mean() + (1.0 - share) * (1.0 - chance.mean()))
        return nll + training.aux_loss_coef * balance, (share, content)

    def step(carry, key):
        params, moments, gap = carry
        pick_key, choose_key = jax.random.split(key)
        pick = jax.random.randint(pick_key, (training.batch_size,), 0, inputs.shape[0])
        batch = (inputs[pick], labels[pick])
        slopes, (share, content) = jax.grad(loss_of, has_aux=True)(params, gap, batch, choose_key)
        updates, moments = optimiser.update(slopes, moments, params)
        params = optax.apply_updates(params, updates)
        load_gap = 2.0 * share - 1.0
        chance = jax.nn.sigmoid(2.0 * gap + content)
        # descent of the auxiliary loss by both scores: u sech^2(z) on the score gap, half of it on z
        pull = 2.0 * training.aux_loss_coef * load_gap * (chance * (1.0 - chance)).mean()
        gap = gap + training.step_size * (strength * load_gap - gap - pull)
        implied = training.response.value(gap + 0.5 * content).mean()
        return (params, moments, gap), (load_gap, jnp.abs(implied))

    begin = (params, optimiser.init(params), gap)
    keys = jax.random.split(steps_key, training.steps)
    (params, _, gap), (load_gaps, implied) = lax.scan(step, begin, keys)
    last = training.steps - training.steps // 4
    outputs, content = _read(layer, params, held_inputs)
    first = 2.0 * gap + content > 0
    answer = jnp.where(first[:, None], outputs[0], outputs[1]).argmax(axis=1)
    return TrainedRun(
        load_gap=load_gaps[last:].mean(),
        imbalance=implied[last:].mean(),
        gap=gap,
        accuracy=(answer == held_labels).mean(dtype=inputs.dtype),
        content=content,
    )


def _read(layer: TwoExpertLayer, params: Any, inputs) -> tuple[Array, Array]:
    outputs, content = layer.apply(params, inputs)
    return jnp.asarray(outputs), jnp.asarray(content)


def _choose(key, logit, routing):
    if routing is Routing.SOFTMAX:
        return jax.random.uniform(key, logit.shape, logit.dtype) < jax.nn.sigmoid(logit)
    noise = GAP_NOISE * jax.random.normal(key, logit.shape, logit.dtype)
    return logit + noise > 0


def content_gap(
    gap: Float[Array, ""],
    strength: Float[Array, ""],
    content: Float[Array, " held"],
    training: Training,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Theory beside a run: the mean field followed from the run's own `gap` to its equilibrium.

    Returns:
        The stationary gap and load gap.
    """

    def load_gap(gap):
        return training.response.value(gap + 0.5 * content).mean()

    def relax(_, gap):
        chance = jax.nn.sigmoid(2.0 * gap + content)
        pull = 2.0 * training.aux_loss_coef * (chance * (1.0 - chance)).mean()
        return gap + 0.3 * ((strength - pull) * load_gap(gap) - gap)

    gap = lax.fori_loop(0, 2000, relax, gap)
    return gap, load_gap(gap)


def content_threshold(content: Float[Array, " held"], training: Training) -> Float[Array, ""]:
    """Strength at which balance is lost: `1 / E[g'(c / 2)]`, plus half the auxiliary coefficient.

    Holds where the content logits are symmetric about zero. What tokens ask for, spread out, keeps
    the router balanced at strengths above 1, the threshold without content. Where most tokens have
    `|c| > 1.3` (softmax) the third derivative of the mean response is positive and the pitchfork
    subcritical: a collapsed state exists below this strength already, and a small asymmetry takes
    the router there.
    """
    slope = training.response.slope(0.5 * content).mean()
    chance = jax.nn.sigmoid(content)
    return 1.0 / slope + 2.0 * training.aux_loss_coef * (chance * (1.0 - chance)).mean()
