"""The reinforced router: the expert that is picked gains score, all scores decay.

    score_i <- score_i + step_size (increment * share_i - decay * score_i)               (1)

where `share` is the fraction of a batch of tokens that went to expert `i`. Tokens choose by
softmax(sharpness * score + bias), or by the largest `score + bias / sharpness + noise`. In the
mean field the stationary scores are `score = (increment / decay) load`, so

    load ∝ exp(bias + feedback * load),    feedback = sharpness * increment / decay:       (2)

exactly the congestion game with quality `bias`, temperature 1 and congestion `-feedback`. Model of
arXiv 2605.29121 (abstract); (2), the M-expert form and every threshold below are derived here.
"""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class ReinforcedRouter(eqx.Module):
    """One router; batch with `jax.vmap`. All fields are traced and differentiable.

    Attributes:
        bias: external preference of each expert, in logits (the `quality` of the game).
        increment: score gained per unit of load share, in score units per unit of time.
        decay: rate of regularising decay, per unit of time.
        sharpness: inverse temperature of the softmax, logits per score unit.
    """

    bias: Float[Array, "*batch experts"]
    increment: Float[Array, "*batch"]
    decay: Float[Array, "*batch"]
    sharpness: Float[Array, "*batch"]

    @property
    def feedback(self) -> Float[Array, "*batch"]:
        """`sharpness * increment / decay`: minus the congestion of the equivalent game."""
        return self.sharpness * self.increment / self.decay

    @property
    def strength(self) -> Float[Array, "*batch"]:
        """Two-expert feedback strength: half the feedback; 1 at the pitchfork."""
        return 0.5 * self.feedback

    @property
    def asymmetry(self) -> Float[Array, "*batch"]:
        """Two-expert field: half the difference of the two biases, in logits."""
        return 0.5 * (self.bias[..., 0] - self.bias[..., 1])


def router_of_feedback(
    feedback: Float[Array, ""], bias: Float[Array, " experts"]
) -> ReinforcedRouter:
    """The router with unit decay and sharpness that has this feedback (time in units of decay)."""
    one = jnp.ones_like(feedback)
    return ReinforcedRouter(bias=bias, increment=feedback, decay=one, sharpness=one)


def softmax_threshold(
    decay: Float[Array, "*batch"], sharpness: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Increment above which two equal softmax experts leave balance: `2 decay / sharpness`."""
    return 2.0 * decay / sharpness


def noisy_top1_threshold(
    decay: Float[Array, "*batch"], gap_noise: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Increment above which two equal hard top-1 experts leave balance.

    Args:
        decay: rate of decay.
        gap_noise: standard deviation of the token noise of the score *gap*, in score units
            (sqrt(2) times that of one expert when the two are independent).

    Returns:
        `decay * gap_noise * sqrt(pi / 2)`: zero without noise, where top-1 always collapses.
    """
    return decay * gap_noise * math.sqrt(math.pi / 2.0)


def balanced_threshold(
    decay: Float[Array, "*batch"],
    sharpness: Float[Array, "*batch"],
    aux_loss_coef: Float[Array, "*batch"],
) -> Float[Array, "*batch"]:
    """Threshold of two softmax experts whose scores also descend the auxiliary loss.

    With `aux_loss_coef * experts * sum_i load_i probability_i` (Switch Transformer) descended in the
    scores, load held constant, the score gap loses `aux_loss_coef * sharpness * u sech^2(z)`, `u` the
    load gap: to first order in `u` the increment falls by `aux_loss_coef * sharpness`.
    """
    return softmax_threshold(decay, sharpness) + aux_loss_coef * sharpness
