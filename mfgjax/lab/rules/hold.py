"""The controller of `mfgjax.lab.controller` as rules of the lab."""

from jaxtyping import Array

from mfgjax.lab import controller
from mfgjax.lab.rule import Context, Rule, State, biased, with_average
from mfgjax.lab.rules.auxiliary import AUXILIARY
from mfgjax.lab.rules.plain import select_top_k


def hold_violation(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Keep MaxVio above its sampling floor at or below `setpoint`, at the least cost in score."""
    return _held(controller.cap_load, state, counts, logits, context)


def hold_congestion(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Keep the slope of the price on the load at `setpoint`."""
    return _held(controller.set_congestion, state, counts, logits, context)


def _held(step, state: State, counts: Array, logits: Array, context: Context) -> State:
    before = controller.Held(state["bias"], state["gain"], state["noise"])
    after = step(before, counts, logits, context.top_k, setpoint=state["setpoint"], on=state["on"])
    return state | after._asdict()


def _start(experts: int, settings: State) -> State:
    return settings | controller.start_holding(experts)._asdict()


def hold_alpha(state: State, counts: Array, logits: Array, context: Context) -> State:
    """Keep MaxVio above its sampling floor at `setpoint` by moving alpha of the Switch loss."""
    alpha, average = controller.move_alpha(
        state["alpha"], state["average"], counts, setpoint=state["setpoint"], on=state["on"]
    )
    return state | {"alpha": alpha, "average": average}


HOLD_VIOLATION = biased(
    hold_violation,
    "controller: MaxVio above its floor held at 0.1 by a bias (this package)",
    {"setpoint": 0.1, "on": 1.0},
    _start,
)
HOLD_CONGESTION = biased(
    hold_congestion,
    "controller: congestion held at 20 by a bias (this package)",
    {"setpoint": 20.0, "on": 1.0},
    _start,
)
HOLD_ALPHA = Rule(
    select_top_k,
    hold_alpha,
    loss=AUXILIARY.loss,
    start=with_average,
    settings={"setpoint": 0.1, "alpha": 1e-3, "on": 1.0},
    score="logits",
    about="controller: MaxVio above its floor held at 0.1 by alpha of the Switch loss (this package)",
)
