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
# # A router that is broken on purpose, and found
#
# The commonest failure of a mixture of experts is silent: balancing that is configured and does not act. Here
# two layers are balanced by a selection bias, as in DeepSeek-V3. In the second one nothing calls the
# update. No loss is computed at all: the monitor needs the routing only.

# %%
# %matplotlib inline
import logging

import jax
import jax.numpy as jnp

from mfgjax.monitor import Monitor, routing_sums

logging.getLogger("mfgjax.monitor").setLevel(logging.ERROR)  # alarms are looked at below
EXPERTS, TOP_K, TOKENS = 16, 2, 2048


@jax.jit
def route(key, quality, bias):
    """One layer, one batch: noisy scores, top-k of scores plus bias, and the sign rule's next bias."""
    logits = quality + jax.random.normal(key, (TOKENS, EXPERTS))
    _, choices = jax.lax.top_k(logits + bias, TOP_K)
    sums = routing_sums(logits, choices, bias=bias)
    count = sums["count"].astype(bias.dtype)
    return sums, bias + 0.05 * jnp.sign(count.mean() - count)


# %% [markdown]
# The loop is what a training loop would be: sums out of the step, one call outside.

# %%
quality = 0.7 * jax.random.normal(jax.random.key(0), (2, EXPERTS))
bias = [jnp.zeros(EXPERTS), jnp.zeros(EXPERTS)]
monitor = Monitor()
records = []
for step in range(40):
    sums = {}
    for layer in range(2):
        key = jax.random.fold_in(jax.random.key(layer), step)
        sums[f"layer_{layer}"], moved = route(key, quality[layer], bias[layer])
        if layer == 0:  # the mistake: layer 1 is forgotten
            bias[layer] = moved
    records.append(monitor.observe(step, sums))

[f"{alarm.fault} in {alarm.layer}, step {alarm.step}: {alarm.evidence}" for alarm in monitor.alarms]

# %% [markdown]
# The alarm names the layer. MaxVio shows the same thing to who looks: the first layer comes down to what
# random choices would show, the second stays.

# %%
import matplotlib.pyplot as plt
import numpy as np

figure, axes = plt.subplots(figsize=(7, 3))
axes.plot(np.stack([r.max_violation for r in records]), label=["updated", "forgotten"])
axes.axhline(records[0].max_violation_floor[0], ls=":", color="black", label="random choices")
axes.set(xlabel="step", ylabel="MaxVio", ylim=(0, None))
axes.legend(frameon=False)

# %% [markdown]
# In a run of your own, `Monitor("run/")` keeps this in a file, and `mfgjax watch run/` shows it. What is found,
# and what cannot be: *Watch a training run*, in the documentation.
