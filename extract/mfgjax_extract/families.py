"""Routers whose logits or choices cannot be read by the general rule, each with its reason.

The general rule (`capture.py`) reads the output of the router's linear map as the model
computes it, and the expert indices that the experts receive. Everything that departs from it
is listed here, by class name, and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class FamilyRule:
    """How one router class departs from the general rule.

    Attributes:
        reason: why the general rule is wrong here.
        choices_from: "experts" (what the experts receive; the default), "topk" (the last
            top-k over all experts inside the router) or "argmax" (the first `argmaxes` over all
            experts, whether by argmax or by a maximum that also returns where it is).
        argmaxes: K of a router that chooses by argmax.
        evaluation_only: in training the choice is drawn in a way that is not recorded.
        assemble: turns the output of the linear map into one logit per expert, `[token, expert]`.
        expert_count: number of experts when it is not the height of the router's weight.
        dispatched: reads from the router's output and the choices `[token, top_k]` which of
            them were really served, as `[token, top_k]` booleans. Marks a capacity router.
        experts_child: name of the sibling module that receives the indices, if not `experts`.
    """

    reason: str
    choices_from: str = "experts"
    argmaxes: int | None = None
    evaluation_only: bool = False
    assemble: Callable[[Any, Tensor], Tensor] | None = None
    expert_count: Callable[[Any], int] | None = None
    dispatched: Callable[[tuple, Tensor], Tensor] | None = None
    experts_child: str = "experts"


def _drop_shared(router: Any, logits: Tensor) -> Tensor:
    """Inkling: the last `n_shared_experts` outputs weigh experts that every token visits."""
    return logits[..., : router.num_experts]


def _product_keys(block: Any, output: Tensor) -> Tensor:
    """Doge: the logit of expert `(i, j)` is `x_i + y_j`, the sum its second top-k ranks.

    The view repeats the model's own, which mixes positions (its authors keep it for the sake
    of existing checkpoints).
    """
    tokens = output.numel() // output.shape[-1]
    x, y = output.reshape(2, tokens, -1)
    return (x.unsqueeze(-1) + y.unsqueeze(-2)).flatten(-2)


def _served_in_mask(output: tuple, choices: Tensor) -> Tensor:
    """Switch: the one-hot dispatch mask has a zero where the expert was full."""
    mask = next(t for t in output if not t.is_floating_point()).reshape(choices.shape[0], -1)
    return mask.gather(1, choices) > 0


def _served_by_weight(output: tuple, choices: Tensor) -> Tensor:
    """NLLB: a combine weight of 0 means that the expert did not see the token."""
    weights = output[1].reshape(choices.shape[0], -1)
    return weights.gather(1, choices) > 0


FAMILY_RULES: dict[str, FamilyRule] = {
    "ZayaRouter": FamilyRule(
        "a token may skip all experts (class M); the experts then receive index 0 with weight 0",
        choices_from="topk",
    ),
    "Llama4Router": FamilyRule(
        "the experts receive every token, scaled by sigmoid(-inf) = 0 where not chosen",
        choices_from="topk",
    ),
    "JetMoeTopKGating": FamilyRule(
        "the experts receive tokens sorted by expert, not indices", choices_from="topk"
    ),
    "SwitchTransformersTop1Router": FamilyRule(
        "the experts receive a one-hot mask from which tokens over capacity are removed",
        choices_from="argmax",
        argmaxes=1,
        dispatched=_served_in_mask,
    ),
    "NllbMoeTop2Router": FamilyRule(
        "two argmaxes in place of a top-k; tokens over capacity lose their weight; with "
        "second_expert_policy='sampling' noise is added to the logits in place",
        choices_from="argmax",
        argmaxes=2,
        dispatched=_served_by_weight,
    ),
    "InklingTopkRouter": FamilyRule(
        "the linear map also has one output per shared expert",
        assemble=_drop_shared,
        expert_count=lambda router: int(router.num_experts),
    ),
    "PhimoeSparseMoeBlock": FamilyRule(
        "transformers before 5.0: a plain linear gate and two masked maxima in place of a top-k",
        choices_from="argmax",
        argmaxes=2,
        evaluation_only=True,
    ),
    "DogeCDMoE": FamilyRule(
        "product keys: 2 sqrt(M) outputs, experts are embedding rows",
        assemble=_product_keys,
        expert_count=lambda block: int(block.num_keys) ** 2,
        experts_child="down_embed",
    ),
}
"""By class name of the router, or of the block around a plain linear gate."""

RETURNED_LOGITS_NOT_RAW: dict[str, str] = {
    "gemma4_text": "returns softmax probabilities",
    "diffusion_gemma_text": "returns softmax probabilities",
    "muse_spark_text": "returns the logits times config.output_multiplier",
    "doge": "returns the product-key halves, (2, token, sqrt(M))",
    "deepseek_v4": "leaves out the layers that route by a hash of the token",
    "jetmoe": "lists every attention router twice",
}
"""Model types whose `output_router_logits` in transformers 5.23.0 is not one raw logit tensor per
router (transformers 5.0 to 5.5 return probabilities for many more). Recorded logits are raw
for all of them. Two more depend on settings: `laguna` returns softcapped logits if
`moe_router_logit_softcapping` is set, `nllb-moe` adds noise if `second_expert_policy` is
"sampling"."""

EXPERTS_NOT_THE_CHOSEN_ONES: dict[str, str] = {
    "nllb-moe": "NllbMoeExperts of transformers 5.23.0 one-hot encodes a mask that is one-hot "
    "already, and so runs experts 0 and 1 for every token, whatever the router chose",
}
"""Model types in which the experts that run are not those that the router chose. Recorded is the
router's choice, which is what a trained checkpoint meant."""


def rule_for(*modules: nn.Module) -> FamilyRule | None:
    """The rule of the first of `modules` whose class (or a base class) has one."""
    for module in modules:
        for base in type(module).__mro__:
            if base.__name__ in FAMILY_RULES:
                return FAMILY_RULES[base.__name__]
    return None
