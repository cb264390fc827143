"""The reinforced router: the expert that is picked gains score, all scores decay.

    score_i <- score_i + step_size (increment * share_i - decay * score_i)               (1)

where `share` is the fraction of a batch of tokens that went to expert `i`. Tokens choose by
softmax(sharpness * score + bias), or by the largest `score + bias / sharpness + noise`. In the
mean field the stationary scores are `score = (increment / decay) load`, so

    load ∝ exp(bias + feedback * load),    feedback = sharpness * increment / decay:       (2)

exactly the congestion game with quality `bias`, temperature 1 and congestion `-feedback`. Model of
arXiv 2605.29121 (abstract); (2), the M-expert form and every threshold below are derived here.
"""

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
