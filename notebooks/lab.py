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
# # The lab: what does a balancing rule move?
#
# A balancing rule is two pure functions: `select` says which experts each token takes, `update` what the rule remembers.
# Here are a few of them on scores that stand still, then a small model that trains under two.

# %%
# %matplotlib inline
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.lab import (
    RULES,
    Context,
    cap_load,
    certify_balance,
    read_preset,
    run_lab,
    start_holding,
)

M, K, TOKENS, STEPS = 16, 4, 2048, 120
rng = np.random.default_rng(0)
quality = 0.5 * rng.standard_normal(M)
fresh = rng.standard_normal((STEPS, TOKENS, M))
scores = jnp.asarray(quality + fresh, jnp.float32)

# %% [markdown]
# ## Rules on a router that stands still
#
# Every rule sees a fresh batch in each step. The sign rule's step $u$ is a bargain between speed and the floor it ends at;
# quantile balancing has no step, and the noise of one batch; the controller of this package, `cap_load`, is asked to hold MaxVio at
# 0.3, not at 0.

# %%
context = Context(
    K, 1, True, jnp.zeros((TOKENS, 3), jnp.int32), jax.random.key(0), jnp.zeros((1, M))
)
chosen = {
    "sign, u = 0.001": ("sign", {"step": 0.001}),
    "sign, u = 0.05": ("sign", {"step": 0.05}),
    "quantile": ("quantile", {}),
    "leaky, congestion 20": ("leaky", {"congestion": 20.0}),
    "cap_load at 0.3": ("hold-violation", {"setpoint": 0.3}),
}


def follow(name, settings):
    """MaxVio of each batch, and the last bias."""
    rule = RULES[name]

    def step(state, logits):
        picked = rule.select(logits, state, context).choices
        counts = jnp.zeros(M, jnp.int32).at[picked.reshape(-1)].add(1)
        return rule.update(state, counts, logits, context), M * counts.max() / counts.sum() - 1

    state, violation = jax.lax.scan(step, rule.state(M, **settings), scores)
    return np.asarray(violation), np.asarray(state["bias"])


found = {label: follow(*which) for label, which in chosen.items()}
figure, axes = plt.subplots(figsize=(7, 3.5))
for label, (violation, _) in found.items():
    axes.plot(violation, lw=1, label=label)
axes.set(xlabel="step", ylabel="MaxVio of the batch")
axes.legend(fontsize=8)

# %% [markdown]
# ## How far from optimal?
#
# All of these prices descend one convex function, the dual of the assignment problem, but for the leak and the cap. Any price
# bounds what a balanced assignment can score, and any balanced assignment bounds it from below: the gap is a proof.

# %%
for label, (_, bias) in found.items():
    proof = certify_balance(np.asarray(scores[-1]), bias, K)
    print(
        f"{label:22s} no balanced assignment scores more than {proof.dual:.4f} (gap {proof.gap:.4f})"
    )

# %% [markdown]
# ## The controller in a loop of your own
#
# It needs the counts of a step and some of its logits, and no rate. Compiled, it is one program.

# %%
held, hold = start_holding(M), jax.jit(cap_load, static_argnames="top_k")
for batch in np.asarray(scores[:60]):
    picked = np.argpartition(-(batch + np.asarray(held.bias)), K, axis=1)[:, :K]
    counts = np.bincount(picked.ravel(), minlength=M).astype(np.int32)
    held = hold(held, counts, batch, top_k=K, setpoint=0.3)
print(f"MaxVio of the last batch {M * counts.max() / counts.sum() - 1:.2f}")

# %% [markdown]
# ## A model that trains
#
# `mfgjax lab run --preset smoke` from Python: two rules, two seeds, twenty steps. Far too little to tell anything; `--preset quick`
# takes minutes, and the [results page](../lab.md) shows what five seeds of every rule told.

# %%
with tempfile.TemporaryDirectory() as folder:
    results = run_lab(read_preset("smoke", RULES), Path(folder))
for run in results["runs"]:
    level = np.mean(run["training_max_violation"])
    print(
        f"{run['arm']:10s} seed {run['seed']}: loss {run['held_out_loss']:.3f}, MaxVio {level:.2f}"
    )
