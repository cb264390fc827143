# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Equilibria you can check
#
# A router with congestion is in equilibrium where its load is its own best response. The obvious way to
# find that load is to respond, look, respond again. This article shows where that fails, what replaces it,
# and how you know that the answer is right.

# %%
# %matplotlib inline
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.equilibrium import Status, check, find_equilibria, solve_equilibrium
from mfgjax.game import Game

# %% [markdown]
# ## One game
#
# 64 experts whose qualities differ by about 0.6 logits, at the congestion that arXiv 2604.04230 finds
# at the peak of its surge.

# %%
solve = jax.jit(solve_equilibrium, static_argnames=("method", "max_steps"))

quality = 0.6 * jax.random.normal(jax.random.key(0), (64,))
solution = check(solve(Game(quality, congestion=36.0)))
print(f"loads {float(solution.load.min()):.4f} to {float(solution.load.max()):.4f}")
print(f"total share of tokens that would move: {float(solution.residual):.1e}")
print(f"certified distance to the true loads:  {float(solution.error_bound):.1e}")
print(f"steps: {int(solution.steps)}")

# %% [markdown]
# The certificate is not the residual. The potential of the game is strongly convex in relative entropy,
# so the duality gap at any loads bounds their distance from the one equilibrium (Pinsker). Stop a slow
# method early, and the bound says how wrong the loads still are:

# %%
for steps in (10, 100):
    early = solve(Game(quality, congestion=36.0), method="damped_picard", max_steps=steps)
    error = float(jnp.abs(early.load - solution.load).sum())
    print(f"{steps:3d} steps: error {error:.1e}, certified bound {float(early.error_bound):.1e}")

# %% [markdown]
# ## What Picard gets wrong
#
# 150 games, congestion from 0.1 to 200. Every method gets up to 200 steps.

# %%
games = Game(
    0.6 * jax.random.normal(jax.random.key(1), (150, 64)),
    congestion=jnp.geomspace(0.1, 200.0, 150),
)
methods = ["newton", "picard", "damped_picard", "anderson"]
found = {m: jax.vmap(lambda g, m=m: solve(g, method=m))(games) for m in methods}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
for name, solved in found.items():
    left.loglog(games.congestion, np.maximum(solved.residual, 1e-16), ".", ms=3, label=name)
left.set(xlabel="congestion", ylabel="residual (share of tokens)")
left.legend(frameon=False)
unsolved = {name: float((s.status != Status.CONVERGED).mean()) for name, s in found.items()}
right.barh(list(unsolved), list(unsolved.values()), color="tab:gray")
_ = right.set(xlabel="share unsolved")

# %% [markdown]
# Picard stops working somewhere, and says nothing. Lemma 5.4 of the paper gives its worst-case
# contraction rate, congestion / 2, which promises nothing above 2; the rate at the equilibrium decides.
# The equilibrium is unique all the same. (Below a rate of 1 the few failures are slow, not divergent.)

# %%
from mfgjax.scope import spectral_rate, worst_case_rate

rate = np.asarray(spectral_rate(found["newton"].load, games.congestion))
failed = np.asarray(found["picard"].status != Status.CONVERGED)
print(f"Picard fails on {failed[rate > 1].mean():.0%} of games with a local rate above 1")
print(f"         and on {failed[rate < 1].mean():.0%} of those below")
print(
    f"worst-case rate below 1 on {float((worst_case_rate(games.congestion) < 1).mean()):.0%} of games"
)

# %% [markdown]
# ## Gradients without unrolling
#
# The derivative of the loads is a closed form at the solution, O(experts). Against central differences:

# %%


def heaviest(congestion):
    return solve(Game(quality, congestion=congestion)).load.max()


step = 1e-4
difference = (heaviest(10.0 + step) - heaviest(10.0 - step)) / (2 * step)
print(f"implicit {float(jax.grad(heaviest)(10.0)):.9f}, differences {float(difference):.9f}")

# %% [markdown]
# So anything in the game can be fitted from loads. Here are the 150 congestions at once, by Gauss-Newton steps:
# the derivative of all loads in one number comes out of one forward pass.

# %%


@jax.jit
@jax.vmap
def gauss_newton(log_congestion, quality, load):
    def loads(log_congestion):
        return solve(Game(quality, congestion=jnp.exp(log_congestion))).load

    found, slope = jax.jvp(loads, (log_congestion,), (jnp.ones_like(log_congestion),))
    step = (slope * (load - found) / found).sum() / (slope**2 / found).sum()
    return log_congestion + jnp.clip(step, -1.0, 1.0)


truth = games.congestion
estimate = jnp.full_like(truth, np.log(8.0))
for _ in range(12):
    estimate = gauss_newton(estimate, games.quality, found["newton"].load)
worst = float(jnp.abs(jnp.exp(estimate) / truth - 1).max())
print(f"largest relative error of 150 fits: {worst:.1e}")

# %% [markdown]
# ## The other sign
#
# With negative congestion load attracts load, and there may be several equilibria. They are listed with
# their stability; `complete` says whether the list is proved to hold all of them.

# %%
states = find_equilibria(Game(jnp.zeros(8), congestion=-6.0))
print(
    f"{len(states.load)} equilibria, {int(states.stable.sum())} stable, complete: {states.complete}"
)
print("largest load of the stable ones:", np.unique(states.load[states.stable].max(-1).round(3)))

# %% [markdown]
# Eight equal experts at feedback 6: the balanced state is stable, and so are eight collapsed ones.
#
# **What is not claimed.** The certificate needs congestion >= 0 (or a magnitude below twice the
# temperature). Timings are not here: `python -m benchmarks.equilibrium` measures them beside scipy,
# jaxopt, optimistix and Clarabel. Whether a router *is* such a game is another question: see *paper*.
