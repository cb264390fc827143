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
# # Thousands of resamples, and whether to believe them
#
# A bootstrap over texts is a matrix product: the weight of each text times its sums, then a batch of fits.
# That makes it cheap. Cheap is not the same as right: this article resamples routers whose congestion is
# known, and counts how often each interval holds it.

# %%
# %matplotlib inline
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.estimate import (
    bootstrap_texts,
    confidence_interval,
    congestion_estimator,
    leave_one_out_weights,
    unit_weights,
)
from mfgjax.simulate import draw_truth, simulate_texts

# %% [markdown]
# ## 200 routers with congestion 20
#
# Each has 64 experts, its own load, and 50 texts: of 14 tokens, as in arXiv 2604.04230, or of 200. The
# 200 routers ride on the layer axis, so that everything below is one batch.

# %%
REPLICATES, TRUTH = 200, 20.0


def simulate(truth, tokens):
    return simulate_texts(
        jax.random.key(1),
        truth,
        texts=50,
        tokens=200,  # at most
        lengths=jnp.full(50, tokens),
        quality_noise=0.02,
        concentration=2e3,
    )


truth = draw_truth(jax.random.key(0), jnp.full(REPLICATES, TRUTH, jnp.float32), experts=64)
samples = {tokens: simulate(truth, tokens) for tokens in (14, 200)}

# %% [markdown]
# 512 resamples of each: 102,400 fits a sample, in blocks of one shape, compiled once. Resample *r* draws the same
# texts however many are drawn: the results are equal to the last bit.

# %%
fit = congestion_estimator("kl")


def resample(statistics, resamples=512):
    found, status = bootstrap_texts(
        statistics, jax.random.key(2), resamples=resamples, estimator=fit
    )
    assert (status == 0).all()  # every fit converged
    return found


resampled = {tokens: resample(statistics) for tokens, statistics in samples.items()}
again = resample(samples[14], 100)
print("equal where fewer are drawn:", np.array_equal(again, resampled[14][:100]))

# %% [markdown]
# ## Where the truth lies

# %%
# The first row is the sample as it is, the others leave out one text each.
weights = jnp.concatenate([unit_weights(50), leave_one_out_weights(50)])
single = jax.jit(fit)
fits = {tokens: single(statistics, weights)[0] for tokens, statistics in samples.items()}

figure, panels = plt.subplots(1, 2, figsize=(9, 3), sharey=True, constrained_layout=True)
for panel, (tokens, found) in zip(panels, fits.items(), strict=True):
    panel.hist(
        np.asarray(resampled[tokens]).ravel(), 80, density=True, alpha=0.4, label="resamples"
    )
    panel.hist(np.asarray(found[0]), 30, density=True, alpha=0.6, label="estimates")
    panel.axvline(TRUTH, color="black", label="truth")
    panel.set(xlabel="signed congestion", title=f"50 texts of {tokens} tokens")
panels[0].set(ylabel="density")
_ = panels[0].legend(frameon=False)

# %% [markdown]
# The fit is a regression on a load that carries sampling noise, and noise in a regressor pulls the slope
# down. Resamples carry the noise twice, so they lie as far below the estimate as the estimate lies
# below the truth. The percentile interval, which the paper reports, is made of resamples.

# %%
for tokens, found in fits.items():
    estimate, left_out = found[0], found[1:]
    print(
        f"50 texts of {tokens} tokens; mean estimate {float(estimate.mean()):.1f}, truth {TRUTH:g}"
    )
    for kind in ("percentile", "basic", "jackknife"):
        low, high = confidence_interval(
            resampled[tokens], kind=kind, estimate=estimate, left_out=left_out
        ).T
        share = float(((low <= TRUTH) & (high >= TRUTH)).mean())
        error = (share * (1 - share) / REPLICATES) ** 0.5
        print(
            f"  {kind:10s} covers {share:.0%} ± {error:.0%}, median width "
            f"{np.median(high - low):.0f}"
        )

# %% [markdown]
# The jackknife removes the bias of first order and covers best. At 14 tokens a text there is more bias than
# that; no interval makes up for tokens that were not there.
#
# ## Differences are easier to see than to measure
#
# Two checkpoints measured on the same texts share much of their noise. Resample *r* draws the same texts for
# both, so the difference has a narrow interval of its own. That settles whether congestion rose; but noise in
# the load shrinks a rise by the same factor as a level, and the narrow interval does not know it.

# %%
later = draw_truth(jax.random.key(0), jnp.full(REPLICATES, TRUTH + 10, jnp.float32), experts=64)
after = simulate(later, 200)
low, high = confidence_interval(resample(after) - resampled[200]).T
print(f"called an increase: {float((low > 0).mean()):.0%}")
print(f"median interval {np.median(low):.2f} to {np.median(high):.2f}, truth 10,", end=" ")
print(f"covered {float(((low <= 10) & (high >= 10)).mean()):.0%}")

# %% [markdown]
# **What is not claimed.** These routers are equilibria by construction and their texts are independent; real
# texts are less alike. `python -m benchmarks.studies.coverage` has 1,000 replicates, more intervals and harder cases,
# `docs/limits.md` what to do about it.
