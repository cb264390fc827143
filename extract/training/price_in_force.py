"""The congestion that a router really plays at: the slope of its stored price on its load in training.

A leaky price rests at the gamma that was set only if the load stands still and its average has no noise.
So the slope is measured: the price that each checkpoint stores, on the load of training text that was drawn
for this and that no estimate is made from.
"""

from pathlib import Path

import numpy as np
import torch
from byte_tokens import encode
from corpus import split_corpus
from priced_olmoe import PricedOlmoeForCausalLM, PricedOlmoeRouter
from train_olmoe import batch

from mfgjax.price.slope import PriceSlope, fit_price_slope

WINDOWS, BATCH = 400, 8
DRAW = 10**6
"""Step of the draw of windows: one that no run reaches."""


@torch.no_grad()
def count_choices(folder: Path, windows: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Choices per window `[window, layer, expert]` of a saved model, and its bias `[layer, expert]`."""
    model = PricedOlmoeForCausalLM.from_pretrained(folder).eval()
    model.set_experts_implementation("grouped_mm")
    routers = [m for m in model.modules() if isinstance(m, PricedOlmoeRouter)]
    experts, length = routers[0].num_experts, windows.shape[1]
    chosen: list[list[torch.Tensor]] = [[] for _ in routers]
    for router, kept in zip(routers, chosen, strict=True):

        def keep(_module, _args, output: tuple, kept=kept):
            kept.append(output[2])

        router.register_forward_hook(keep)
    for part in windows.split(BATCH):
        model(input_ids=part, use_cache=False)
    counts = [
        torch.nn.functional.one_hot(torch.cat(kept), experts)
        .sum(1)
        .reshape(-1, length, experts)
        .sum(1)
        for kept in chosen
    ]
    bias = torch.stack([router.expert_bias for router in routers])
    return torch.stack(counts, 1).numpy(), bias.double().numpy()


def price_in_force(folder: Path, length: int, windows: int = WINDOWS) -> PriceSlope:
    """Slope of the stored price on the load of `windows` training windows, noise of the load taken off."""
    train, _ = split_corpus()
    tokens = batch(encode(train), DRAW, DRAW, windows, length)
    counts, bias = count_choices(folder, tokens)
    used = counts.sum(0) > 0
    return fit_price_slope(-bias, np.zeros(bias.shape), used, counts)
