"""Labelled results: the numbers behind each figure, as xarray datasets.

Everything here is derived from the model in these modules; only the model itself (two experts, pitchfork,
asymmetry) is named in the abstract of arXiv 2605.29121.
"""

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from mfgjax.bifurcation.hysteresis import expected_jump, sweep_asymmetry
from mfgjax.bifurcation.mean_field import growth_rates
from mfgjax.bifurcation.response import NOISY_TOP1, SOFTMAX
from mfgjax.bifurcation.router import router_of_feedback
from mfgjax.bifurcation.simulate import simulate_router
from mfgjax.bifurcation.smearing import stationary_gap
from mfgjax.bifurcation.symmetric import (
    branch_feedback,
    branch_load,
    collapse_potential,
    symmetric_thresholds,
)
from mfgjax.bifurcation.two_expert import (
    cusp_asymmetry,
    fold_asymmetry,
    potential,
    two_expert_states,
)

SOURCE = "derived; model after arXiv 2605.29121 (abstract)"


def branches_dataset(
    asymmetries=(0.0, 0.02, 0.1), *, strengths: np.ndarray | None = None
) -> xr.Dataset:
    """Two-expert load gap over (asymmetry, strength, state), with stability: the pitchfork unfolded."""
    if strengths is None:  # dense behind the threshold, where the branches rise vertically
        near = 1.0 + np.geomspace(1e-6, 0.05, 60)
        strengths = np.unique(np.concatenate([np.linspace(0.0, 2.5, 2001), near]))
    grid = strengths
    solve = jax.jit(jax.vmap(jax.vmap(two_expert_states, (0, None)), (None, 0)))
    states = solve(jnp.asarray(grid), jnp.asarray(asymmetries))
    dims = ("asymmetry", "strength", "state")
    return xr.Dataset(
        {
            "load_gap": (dims, np.asarray(states.load_gap), {"long_name": "load 1 - load 2"}),
            "rate": (dims, np.asarray(states.rate), {"units": "1 / decay time"}),
            "stable": (dims, np.asarray(states.stable)),
        },
        coords={
            "asymmetry": np.asarray(asymmetries),
            "strength": grid,
            "state": ["expert 2 leads", "between", "expert 1 leads"],
        },
        attrs={"source": SOURCE},
    )


def folds_dataset(*, strengths: np.ndarray | None = None) -> xr.Dataset:
    """Half-width of the bistable wedge over strength: exact, for both routings, and at the cusp."""
    grid = np.linspace(1.0, 2.5, 301) if strengths is None else strengths
    values = jnp.asarray(grid)
    curve = lambda function, response: np.asarray(  # noqa: E731
        jax.vmap(lambda s: function(s, response))(values)
    )
    return xr.Dataset(
        {
            "softmax": ("strength", curve(fold_asymmetry, SOFTMAX)),
            "noisy_top1": ("strength", curve(fold_asymmetry, NOISY_TOP1)),
            "softmax_cusp": ("strength", curve(cusp_asymmetry, SOFTMAX)),
            "noisy_top1_cusp": ("strength", curve(cusp_asymmetry, NOISY_TOP1)),
        },
        coords={"strength": grid},
        attrs={"source": SOURCE, "long_name": "asymmetry at the fold"},
    )


def hysteresis_dataset(
    strengths=(0.8, 1.2, 1.5, 2.0), *, reach: float = 0.9, rate: float = 2e-4, samples: int = 801
) -> xr.Dataset:
    """Sweeps up and down at several strengths, with their jumps and the folds."""
    values = jnp.asarray(strengths)
    sweep = jax.jit(
        jax.vmap(
            lambda s: sweep_asymmetry(s, jnp.asarray(reach), jnp.asarray(rate), samples=samples)
        )
    )
    loop = sweep(values)
    late = jax.vmap(lambda s: expected_jump(s, jnp.asarray(rate)))(jnp.maximum(values, 1.0 + 1e-6))
    at = ("strength", "asymmetry")
    return xr.Dataset(
        {
            "up": (at, np.asarray(loop.up), {"long_name": "load 1 - load 2"}),
            "down": (at, np.asarray(loop.down), {"long_name": "load 1 - load 2"}),
            "jump_up": ("strength", np.asarray(loop.jump_up)),
            "jump_down": ("strength", np.asarray(loop.jump_down)),
            "area": ("strength", np.asarray(loop.area)),
            "fold": ("strength", np.asarray(jax.vmap(fold_asymmetry)(values))),
            "expected_jump": ("strength", np.where(np.asarray(values) > 1, late, np.nan)),
        },
        coords={"strength": np.asarray(strengths), "asymmetry": np.asarray(loop.asymmetry[0])},
        attrs={"source": SOURCE, "rate": rate, "rate_units": "asymmetry per decay time"},
    )


def collapse_dataset(sizes=(2, 3, 8, 64), *, samples: int = 241) -> xr.Dataset:
    """One expert leading M equal ones: leader's load and stability along the branch, in feedback."""
    log_ratio = jnp.linspace(0.0, 12.0, samples)

    def point(y, size: int):
        lead = branch_load(y, size)
        load = jnp.full(size, lead * jnp.exp(-y)).at[0].set(lead)
        feedback = branch_feedback(y, size)
        return feedback, lead, growth_rates(load, feedback)[-1]

    rows = [jax.jit(jax.vmap(lambda y, m=m: point(y, m)))(log_ratio) for m in sizes]
    feedback, lead, growth = (np.stack(parts) for parts in zip(*rows, strict=True))
    dims = ("experts", "log_ratio")
    thresholds = jax.vmap(symmetric_thresholds)(jnp.asarray(sizes, float))
    return xr.Dataset(
        {
            "feedback": (dims, feedback),
            "leader_load": (dims, lead),
            "growth": (dims, growth, {"units": "1 / decay time"}),
            "fold": ("experts", np.asarray(thresholds.fold)),
            "maxwell": ("experts", np.asarray(thresholds.maxwell)),
            "spinodal": ("experts", np.asarray(thresholds.spinodal)),
        },
        coords={"experts": list(sizes), "log_ratio": np.asarray(log_ratio)},
        attrs={"source": "derived (mean-field Potts)"},
    )


def landscape_dataset(*, experts: int = 8, samples: int = 401) -> xr.Dataset:
    """Potentials: two experts over the gap at four settings, M experts along one leader."""
    settings = [(0.7, 0.0), (1.5, 0.0), (1.5, 0.1), (1.5, 0.2075)]
    strength, asymmetry = jnp.asarray(settings).T
    gap = jnp.linspace(-2.2, 2.2, samples)
    two = jax.vmap(lambda s, h: jax.vmap(lambda z: potential(z, s, h))(gap))(strength, asymmetry)
    table = symmetric_thresholds(jnp.asarray(float(experts)))
    levels = jnp.stack([table.fold, table.maxwell, 0.5 * (table.maxwell + table.spinodal)])
    load = jnp.linspace(1e-3, 0.999, samples)
    y = jnp.log(load * (experts - 1) / (1.0 - load))
    many = jax.vmap(lambda k: jax.vmap(lambda v: collapse_potential(v, experts, k))(y))(levels)
    return xr.Dataset(
        {
            "two": (("setting", "gap"), np.asarray(two)),
            "strength": ("setting", np.asarray(strength)),
            "asymmetry": ("setting", np.asarray(asymmetry)),
            "many": (("feedback", "leader_load"), np.asarray(many)),
        },
        coords={
            "gap": np.asarray(gap),
            "feedback": np.asarray(levels),
            "leader_load": np.asarray(load),
        },
        attrs={"source": SOURCE, "experts": experts},
    )


def empirical_dataset(
    *, seeds: int = 32, step_size: float = 0.02, batch_sizes=(1, 16), seed: int = 0
) -> xr.Dataset:
    """Simulated imbalance over strength and batch size beside its expectation and the mean field."""
    strengths = np.array([0.5, 0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.35, 1.5, 1.75, 2.0])
    keys = jax.random.split(jax.random.key(seed), seeds)
    seen, expected = [], []
    for batch_size in batch_sizes:

        def one(strength, key, batch_size=batch_size):
            router = router_of_feedback(2.0 * strength, jnp.zeros(2))
            run = simulate_router(
                router,
                key,
                jnp.zeros(2),
                step_size,
                records=120,
                record_every=25,
                batch_size=batch_size,
            )
            gap = 0.5 * (run.score[60:, 0] - run.score[60:, 1])
            return jnp.abs(jnp.tanh(gap)).mean()

        simulate = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
        seen.append(simulate(jnp.asarray(strengths), keys))
        noise = jnp.asarray(step_size / batch_size)
        spread = jax.jit(jax.vmap(lambda s, n=noise: stationary_gap(s, 0.0 * s, n).mean_imbalance))
        expected.append(spread(jnp.asarray(strengths)))
    mean_field = jax.vmap(lambda s: two_expert_states(s, 0.0 * s).load_gap[2])(
        jnp.asarray(strengths)
    )
    return xr.Dataset(
        {
            "imbalance": (("batch_size", "strength", "seed"), np.stack(seen)),
            "expected": (("batch_size", "strength"), np.stack(expected)),
            "mean_field": ("strength", np.asarray(mean_field)),
        },
        coords={
            "batch_size": list(batch_sizes),
            "strength": strengths,
            "seed": np.arange(seeds),
        },
        attrs={"source": SOURCE, "step_size": step_size},
    )
