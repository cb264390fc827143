"""What every fit of congestion returns: the estimate with the evidence for it."""

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mfgjax.numerics.status import Status, repr_with_words


class CongestionFit(eqx.Module):
    """A fitted congestion per instance; `*batch` is whatever the inputs had before the experts.

    Attributes:
        congestion: the estimate, in units of quality per unit of load (both dimensionless);
            NaN where `status` is `BAD_INPUT` or `UNIDENTIFIED`, maybe infinite where `UNBOUNDED`.
        residual: the objective at the estimate: L1 distance for `"l1"` (0 to 2), KL divergence in
            nats for `"kl"`.
        minima: number of local minima seen by the search. 1 for `"kl"`, which is convex.
        at_boundary: the minimum sits on congestion = 0 because the search stops there (`"l1"`).
        standard_error: of `congestion`, for `dispatches` independent draws of the load and known
            quality; NaN for objectives that have none, or when the number of draws was not given.
        gap: bound on how much lower than `residual` the objective can be anywhere in the search
            range (a certificate, up to rounding); NaN where the objective has none.
        steps: iterations taken by this instance.
        status: a `mfgjax.equilibrium.Status`: `CONVERGED`, `STEP_LIMIT`, `BAD_INPUT`, `UNIDENTIFIED` or `UNBOUNDED`.
    """

    congestion: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    minima: Int[Array, "*batch"]
    at_boundary: Bool[Array, "*batch"]
    standard_error: Float[Array, "*batch"]
    gap: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    status: Int[Array, "*batch"]

    def __repr__(self) -> str:
        return repr_with_words(self, Status)

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        return self.status == Status.CONVERGED


_ADVICE = {
    Status.STEP_LIMIT: "not certified within its steps: fit in float64, or leave the layer out",
    Status.BAD_INPUT: "look for NaN, for loads that do not sum to 1, or temperature <= 0",
    Status.UNIDENTIFIED: "a uniform load says nothing about congestion: leave the layer out",
    Status.UNBOUNDED: "no congestion fits best, more is always better: leave the layer out, or "
    "read the signed kl fit if this is another objective",
}


def check_fit(fit: CongestionFit) -> CongestionFit:
    """Return `fit`, or raise on the host naming the instances that did not converge.

    Raises:
        ValueError: with the index, the reason and what to do, for the first few instances.
    """
    status = np.asarray(fit.status)
    bad = np.argwhere(status != Status.CONVERGED)
    if len(bad) == 0:
        return fit
    lines = []
    for index in bad[:5]:
        why = Status(int(status[tuple(index)]))
        lines.append(f"  instance {tuple(index.tolist())}: {why.name}: {_ADVICE[why]}")
    more = f"\n  and {len(bad) - 5} more" if len(bad) > 5 else ""
    raise ValueError(
        f"{len(bad)} of {status.size} congestion fits failed:\n" + "\n".join(lines) + more
    )
