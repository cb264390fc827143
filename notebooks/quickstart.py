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
# # From traces to phases
#
# A trace holds what the routers of one checkpoint did on some texts. A folder of traces, one file per
# checkpoint, is all that mfgjax asks for. Two small training runs come with the package; here is the
# one with 16 experts, of which each token uses 8.

# %%
# %matplotlib inline
import mfgjax
from mfgjax.bundled import bundled_runs

run = bundled_runs()["experts16"]
trajectory = mfgjax.track(run.traces, resamples=200)
trajectory[
    ["mean_congestion", "mean_signed", "mean_dispersion_null", "phase"]
].to_dataframe().round(1)

# %% [markdown]
# `mean_congestion` is Definition 3.1 of [arXiv 2604.04230](https://arxiv.org/abs/2604.04230), averaged
# over layers: the congestion, zero or more, at which the best response to the observed load comes
# closest to that load. `mean_signed` is the maximum-likelihood estimate of the same number without the
# sign constraint. Each comes with an interval from resampled texts.

# %%
trajectory.mean_congestion_interval.sel(checkpoint="1604").values.round(1)

# %% [markdown]
# The picture shows both, and below them what the router's logits did meanwhile.

# %%
from mfgjax.report.figures import trajectory_figure

figure = trajectory_figure(trajectory)
figure

# %% [markdown]
# The phases are those shapes, in order, that explain the trajectory with the least penalised misfit.
# Each label carries the share of resampled trajectories that agree.

# %%
trajectory[["phase", "phase_probability"]].to_dataframe()[["phase", "phase_probability"]].round(2)

# %% [markdown]
# **What is not claimed.** The trajectory describes the load given the mean logits. The null, dashed in
# the picture, says how much congestion the spread of the logits over tokens would show with no
# balancing at all; in closed form it assumes equal Gaussian noise for every expert, which real routers
# do not have. The intervals are of estimates corrected for the noise of few texts, so an estimate may lie
# outside its own; `interval="percentile"` gives the paper's, which does not cover when texts are few and short.
# `mfgjax.report.trajectory_table.remarks` lists what else to know about a result:

# %%
from mfgjax.report.trajectory_table import remarks

for remark in remarks(trajectory):
    print("-", remark)
