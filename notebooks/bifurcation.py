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
# # When routers collapse
#
# A router that rewards the expert it picks can lose its balance. For two experts that is a pitchfork, which
# everybody expects. For many it is not: collapse is possible long before the balanced state becomes
# unstable, and it comes as a jump. The model (two experts, reinforcement, decay) is that of
# [arXiv 2605.29121](https://arxiv.org/abs/2605.29121), of which we had only the abstract; all that
# follows is derived, and says so.

# %%
# %matplotlib inline
import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.bifurcation.datasets import branches_dataset, collapse_dataset, hysteresis_dataset

# %% [markdown]
# ## Two experts
#
# Half the score gap obeys `z' = -z + strength tanh(z) + asymmetry`. At strength 1 the balanced state
# gives way to two lopsided ones; a little asymmetry decides which.
# %%
from mfgjax.bifurcation.two_expert_figures import branches_figure

branches = branches_dataset((0.0, 0.05), strengths=np.linspace(0.0, 2.5, 401))
branches_figure(branches)

# %% [markdown]
# Sweep the asymmetry slowly up and down at a strength above 1, and the load jumps at different places: it
# remembers. The folds are exact, `strength = cosh(z)^2`, `asymmetry = z - sinh(2 z) / 2`.

# %%
loops = hysteresis_dataset((0.8, 1.5), samples=401)
for strength in (0.8, 1.5):
    row = loops.sel(strength=strength)
    print(
        f"strength {strength}: enclosed area {float(row.area):.3f}, "
        f"jump at {float(row.jump_up):.4f}, fold at {float(row.fold):.4f}"
    )

# %% [markdown]
# ## Many experts
#
# With M equal experts the fixed points obey `load ∝ exp(feedback * load)`: the game at congestion
# `-feedback`. The branch on which one expert leads starts where the balanced load becomes unstable, at
# feedback M, and runs *backwards* from there.

# %%
collapse = collapse_dataset((2, 8, 64), samples=161)
figure, panel = plt.subplots(figsize=(5.5, 3.2), constrained_layout=True)
for experts in (2, 8, 64):
    branch = collapse.sel(experts=experts)
    panel.plot(branch.feedback / experts, branch.leader_load, label=f"M = {experts}")
panel.set(xlim=(0, 1.6), xlabel="feedback / M", ylabel="load of the leading expert")
_ = panel.legend(frameon=False)

# %%
from mfgjax.bifurcation import symmetric_thresholds

for experts in (2.0, 8.0, 64.0):
    found = symmetric_thresholds(jnp.asarray(experts))
    print(
        f"M = {experts:2.0f}: collapse possible from {float(found.fold):.4f}, preferred from "
        f"{float(found.maxwell):.4f}, forced at {float(found.spinodal):.0f}"
    )

# %% [markdown]
# With 64 experts the balanced state survives small disturbances up to a feedback of 64 and a large one only
# up to 6.9. Load statistics look perfect in between.
#
# ## Two starts, two ends
#
# The dynamics of 16 experts, followed from a balanced start and from one expert ahead, at a feedback between
# the Maxwell point and the spinodal.

# %%
from mfgjax.bifurcation import router_of_feedback, settle

experts = 16
threshold = symmetric_thresholds(jnp.asarray(float(experts)))
feedback = 0.5 * (threshold.maxwell + threshold.spinodal)
router = router_of_feedback(feedback, jnp.zeros(experts))
near_balance = 0.01 * jax.random.normal(jax.random.key(0), (experts,))
one_ahead = jnp.zeros(experts).at[3].set(feedback)
ends = jax.jit(jax.vmap(lambda start: settle(router, start)))
balanced, ahead = ends(jnp.stack([near_balance, one_ahead]))
print(f"feedback {float(feedback):.2f}")
print(f"started balanced:      largest load {float(balanced.max()):.3f}")
print(f"started with one ahead: largest load {float(ahead.max()):.3f}")

# %% [markdown]
# ## An alarm
#
# For any quality the distance to the fold can be computed, and differentiated. `leader` is the expert that
# would take over; the auxiliary loss coefficient that buys back a margin follows from the paper's
# conversion, `congestion = coefficient * M`, which no real run has confirmed yet.

# %%
from mfgjax.bifurcation import aux_loss_coef_to_avoid_collapse, collapse_margin

quality = 0.3 * jax.random.normal(jax.random.key(1), (experts,))


@jax.jit
@jax.vmap
def alarm(congestion):
    return (
        collapse_margin(quality, congestion),
        aux_loss_coef_to_avoid_collapse(quality, congestion),
    )


congestions = jnp.linspace(0.0, -6.0, 7)
margins, needed = alarm(congestions)
for congestion, margin in zip(congestions, margins.margin, strict=True):
    state = "a collapsed state exists" if margin < 0 else "one state only"
    print(f"signed congestion {float(congestion):5.1f}: margin {float(margin):5.2f}, {state}")
print(f"leader: expert {int(margins.leader[-1])}; coefficient for a margin of 0: {needed[-1]:.3f}")

# %% [markdown]
# **What is not claimed.** This is the mean field: finite steps and batches smear the thresholds
# (`mfgjax.bifurcation.smearing` says by how much). A real router also learns its gate, which can save it or
# push it over. Above all, a fitted signed congestion is not a known feedback: flat logits give a negative one
# with no feedback at all. On the bundled runs the margin raises an alarm at 8 of 160 layer-checkpoints,
# random initialisation included, and none where one expert is chosen by 97% of tokens
# (`python -m benchmarks.studies.collapse_margin`).
