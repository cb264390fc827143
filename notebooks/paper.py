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
# # The paper's analysis on a run that you can hold
#
# Mouzouni, *Three Phases of Expert Routing* ([arXiv 2604.04230](https://arxiv.org/abs/2604.04230)), follows
# the congestion of OLMoE-1B-7B over its training and finds a surge, a plateau and a relaxation. Here is the
# same analysis on the bundled run of 16 experts, 15,000 steps of a model of width 128: small enough to
# repeat, too small to say anything about OLMoE. The paper's numbers stand beside ours throughout.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.bundled import bundled_runs
from mfgjax.report.inputs import Inputs
from mfgjax.report.reference import published_table
from mfgjax.report.sections.decomposition import decomposition_table
from mfgjax.report.trajectory_table import remarks

run = bundled_runs()["experts16"]
inputs = Inputs(run.traces, resamples=100, types=(4,))  # what `mfgjax analyze` starts from
ours = inputs.dataset  # what `mfgjax.track` returns
last = inputs.tokens[-1]

# %% [markdown]
# `mfgjax analyze` makes all that follows, and more, in one command. Here it is piece by piece.
#
# ## Dynamics: Table 1 and Figure 1

# %%
paper = published_table("table1_olmoe_dynamics")
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), constrained_layout=True)
left.plot(paper["gamma_eff"], "o-", color="tab:gray")
left.set(title="OLMoE-1B-7B (paper, Table 1)", xlabel="checkpoint", ylabel="effective congestion")
right.plot(ours.mean_congestion, "o-", label="Definition 3.1")
right.plot(ours.mean_signed, "s--", ms=3, label="signed")
right.plot(ours.mean_dispersion_null, ":", color="black", label="dispersion null")
right.set(title="experts16 (bundled)", xlabel="checkpoint")
_ = right.legend(frameon=False)

# %% [markdown]
# Both rise and settle. In ours the null rises as well: the token-to-token spread of the logits grows in
# the same steps, and would by itself show that much congestion without any balancing. The paper reports no
# dispersion, so the same question cannot be asked of it.

# %%
excess = ours.mean_dispersion_excess.values
print(f"excess over the dispersion null: {excess.min():.0f} to {excess.max():.0f}")
print("labels:", list(dict.fromkeys(ours.phase.values.tolist())))

# %% [markdown]
# ## Decomposition: Table 5
#
# What the auxiliary loss asks for (coefficient times number of experts) and the rest.

# %%
decomposition_table(ours).frame.iloc[:, :7].round(1)

# %% [markdown]
# ## Scope: Section 5
#
# Per layer: in scope, marginal or out, and why.

# %%
from mfgjax.report.sections import scope

card, _ = scope.section(inputs).tables
card.frame[["layer", "verdict", "reason"]]

# %% [markdown]
# ## Is it balance?
#
# The paper does not ask. The permutation null keeps what each expert's logits do on their own and drops
# everything that experts do together; what is left above it is the excess.

# %%
from mfgjax.estimate import permutation_excess

excess = permutation_excess(last)
for layer, value, low, high in zip(
    ours.layer.values, excess.excess, *excess.excess_interval, strict=True
):
    print(f"{layer}: excess {value:6.1f}, 95% from {low:6.1f} to {high:6.1f}")

# %% [markdown]
# ## Held-out error: Tables 3 and 4
#
# Quality from one third of the texts, types from another, errors on the last.

# %%
from mfgjax.report.sections.held_out import group_errors

group_errors(inputs.comparison).iloc[:, :4].round(4)

# %%
print("paper, mean over layers:")
published = published_table("table4_heldout_l1")
for name in ("uniform", "temp_softmax", "mfg", "multitype_mfg"):
    print(f"  {name:15s} {np.mean(published[name]):.3f}")

# %% [markdown]
# In the paper the multi-type game beats the uniform load; in ours the uniform load is hard to beat, because
# the model is nearly balanced. A verdict about OLMoE does not follow from a model of this size, in either
# direction.
#
# ## Where the paper does not add up

# %%
from mfgjax.report.sections.paper import footnotes

for note in footnotes():
    print("-", note)

# %% [markdown]
# **What is not claimed.** One run, one seed, 50 texts. The remarks that the analysis itself makes:

# %%
for remark in remarks(ours):
    print("-", remark)
