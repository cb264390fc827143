"""Rules that set the price of every expert from its load, and the schedule of the price's slope.

*Leaky*: `b <- b + eta ((1/M - f) - b/gamma)`, with fixed point `b = -gamma (f - 1/M)`: at rest the router
plays the congestion game of Mouzouni (arXiv 2604.04230) at a gamma of our choice. With `eta = rate gamma`
it reads `b <- b + rate (-gamma (f - 1/M) - b)`: the price follows its fixed point at `rate`, gamma = 0
included, and `f` is a running average of the load.

*Sign*: `b <- b + u sign(1/M - f)`, the loss-free rule (DeepSeek-AI, 2024, arXiv 2412.19437): any
unevenness that lasts raises the price for ever, which is gamma = infinity.
"""

import enum
import math
from typing import Any

import numpy as np
import torch
from priced_olmoe import PricedOlmoeRouter
from torch import Tensor

PRICE_RATE = 0.2
"""Share of the way to its fixed point that the leaky price goes in a step."""

SIGN_STEP = 1e-3
"""DeepSeek-V3's step u of the bias, in logits."""


class Balance(enum.StrEnum):
    """What keeps the load even."""

    NONE = "none"
    AUXILIARY = "auxiliary"
    LEAKY = "leaky"
    SIGN = "sign"


def follow_load(average: Tensor, load: Tensor, rate: float) -> Tensor:
    """The running average of the load after one more step."""
    return average + rate * (load - average)


def leaky_price(bias: Tensor, average: Tensor, gamma: float, rate: float = PRICE_RATE) -> Tensor:
    """The bias after one step of the leaky rule.

    With a load that answers the bias with slope s (`df/db`), price and average settle for
    `gamma s < 1/rate + 1/average_rate - 1` and oscillate beyond.

    Args:
        bias: `[expert]`, in logits.
        average: `[expert]` running average of the load; sums to 1.
        gamma: slope of the price on the load, at least 0.
        rate: share of the way to the fixed point.
    """
    fixed_point = -gamma * (average - 1 / len(average))
    return bias + rate * (fixed_point - bias)


def sign_price(bias: Tensor, load: Tensor, step: float = SIGN_STEP) -> Tensor:
    """The bias after one step of the loss-free rule."""
    return bias + step * torch.sign(1 / len(load) - load)


def price_slope(bias: Tensor, load: Tensor) -> float:
    """Minus the slope of the bias on the load over experts: gamma where the price is at rest. NaN if flat."""
    centred = load - load.mean()
    spread = float((centred * centred).sum())
    return -float((bias * centred).sum()) / spread if spread > 0 else float("nan")


def price_lag(bias: Tensor, load: Tensor, gamma: float) -> float:
    """`|b + gamma (f - 1/M)| / |b|`: distance of the price from its fixed point. NaN without a price."""
    size = float(torch.linalg.vector_norm(bias))
    distance = float(torch.linalg.vector_norm(bias + gamma * (load - 1 / len(load))))
    return distance / size if size > 0 else float("nan")


def parse_schedule(text: str) -> tuple[np.ndarray, np.ndarray]:
    """`"0:0,1500:0,3000:30"` as steps and gammas of a piecewise linear schedule.

    Raises:
        ValueError: not `step:gamma` pairs, steps that do not rise, or a gamma that is negative or not finite.
    """
    try:
        pairs = [tuple(map(float, pair.split(":"))) for pair in text.split(",")]
        steps, gammas = np.array(pairs).T
    except ValueError:
        raise ValueError(
            f'--gamma-schedule {text!r}: pairs "step:gamma" joined by commas were expected, '
            'such as "0:0,1500:0,3000:30"'
        ) from None
    if not (np.diff(steps) > 0).all():
        raise ValueError(f"--gamma-schedule {text!r}: the steps must rise")
    if not (np.isfinite(gammas) & (gammas >= 0)).all():
        raise ValueError(f"--gamma-schedule {text!r}: every gamma must be finite and at least 0")
    return steps, gammas


def gamma_at(schedule: tuple[np.ndarray, np.ndarray], step: int) -> float:
    """gamma of a step; constant before the first point and after the last."""
    return float(np.interp(step, *schedule))


@torch.no_grad()
def move_prices(
    routers: list[PricedOlmoeRouter], balance: Balance, gamma: float, load_rate: float
) -> None:
    """One step of the rule in every layer, from the choices of the last forward."""
    for router in routers:
        load = router.count / router.count.sum()
        router.load_average.copy_(follow_load(router.load_average, load, load_rate))
        if balance is Balance.LEAKY:
            moved = leaky_price(router.expert_bias, router.load_average, gamma)
        else:
            moved = sign_price(router.expert_bias, load)
        router.expert_bias.copy_(moved)


def price_row(routers: list[PricedOlmoeRouter], gamma: float, step: int) -> dict[str, Any]:
    """What shows whether the price is at its fixed point, per layer (null where there is no price)."""

    def per_layer(values: list[float]) -> list[float | None]:
        return [round(x, 3) if math.isfinite(x) else None for x in values]

    prices = [(r.expert_bias, r.load_average) for r in routers]
    return {
        "step": step,
        "gamma": round(gamma, 4),
        "price_slope": per_layer([price_slope(b, f) for b, f in prices]),
        "price_lag": per_layer([price_lag(b, f, gamma) for b, f in prices]),
        "average_max_load": per_layer([float(f.max()) * len(f) for _, f in prices]),
    }
