"""What a solve returns: the loads and what is certain of them."""

from typing import Any, Protocol, TypeVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfgjax.numerics.status import Status, repr_with_words

REASONS = {
    Status.STEP_LIMIT: "step limit reached: raise max_steps, or use method='newton'",
    Status.BAD_INPUT: "bad input: look for non-finite values, temperature <= 0, weights off 1",
    Status.NOT_UNIQUE: "other equilibria may exist at this negative congestion: find_equilibria",
    Status.CYCLE: "the truncated best response cycles: lower the step, or drop the truncation",
    Status.INFEASIBLE: "infeasible: the capacities must sum to more than 1",
    Status.PRECISION: "prices too steep for this dtype: use float64",
}


class Solution(eqx.Module):
    """Equilibrium loads with their certificate; every field has the batch's leading axes.

    Attributes:
        load: load `f` of each expert, summing to 1; the only differentiable fields are this,
            `type_load` and `price`.
        type_load: dispatch fractions of each type; None for a single-type game.
        price: congestion price `gamma F(load)`, in logits.
        residual: `sum_k w_k |Phi^k(f) - mu^k|_1`, recomputed from the returned loads.
        gap: duality gap at the returned loads, in logits; NaN where congestion is negative.
        error_bound: certified bound on `sqrt(sum_k w_k |mu^k - mu*^k|_1^2)`, which also bounds
            `|f - f*|_1`; rounding included. At most 2 for loads that are fractions summing to 1;
            infinite where there is no certificate.
        steps: steps taken by this instance, not by the slowest of its batch.
        status: a `Status`, up to `PRECISION`; only `CONVERGED` certifies the loads as the one equilibrium.
    """

    load: Float[Array, "*batch experts"]
    type_load: Float[Array, "*batch types experts"] | None
    price: Float[Array, "*batch experts"]
    residual: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    error_bound: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]

    def __repr__(self) -> str:
        return repr_with_words(self, Status)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        return self.status == Status.CONVERGED


class Certified(Protocol):
    """What `check` reads: a `Status` and a residual per instance."""

    @property
    def status(self) -> Any: ...

    @property
    def residual(self) -> Any: ...


AnySolution = TypeVar("AnySolution", bound=Certified)


def check(solution: AnySolution, *, name: str = "game") -> AnySolution:
    """Returns `solution` if every instance converged; otherwise raises and says which did not.

    Host side only: not for use inside `jit`.

    Args:
        solution: one solution or a batch, of `solve_equilibrium` or `solve_layered`.
        name: what to call an instance in the message.

    Raises:
        RuntimeError: with the count, the first indices, the largest residual and the reason for
            each status that is not `CONVERGED`.
    """
    status = np.asarray(solution.status)
    if (status == Status.CONVERGED).all():
        return solution
    residual = np.asarray(solution.residual)
    lines = []
    for value, reason in REASONS.items():
        failed = np.argwhere(status == value)
        if not len(failed):
            continue
        shown = ", ".join(str(tuple(int(i) for i in index)) for index in failed[:8])
        shown += ", ..." if len(failed) > 8 else ""
        where = f" at {shown}" if status.ndim else ""
        worst = np.max(residual[status == value])
        lines.append(
            f"{len(failed)} of {status.size} {name}(s){where}: {value.name}, "
            f"largest residual {worst:.3g} ({reason})"
        )
    raise RuntimeError("; ".join(lines))
