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
# # Your own model
#
# From a torch model to congestion per layer without a file in between: tap its routers, hand the logits
# to JAX through DLPack, sum them per text, fit. The model is a small OLMoE with random weights, built on the
# spot so that the notebook needs no network; put your own in its place.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

torch.manual_seed(0)
config = OlmoeConfig(
    vocab_size=256,
    hidden_size=64,
    intermediate_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=4,
    num_experts=16,
    num_experts_per_tok=4,
    eos_token_id=None,
)
model = OlmoeForCausalLM(config).eval()
for layer in model.model.layers:  # a router as wide awake as that of a large model at its start
    torch.nn.init.normal_(layer.mlp.gate.weight, std=0.9 / np.sqrt(config.hidden_size))

# %% [markdown]
# Which routers does it have? The table comes from the modules themselves.

# %%
from mfgjax_extract import find_routers

for router in find_routers(model):
    print(router.path, "experts:", router.num_experts)

# %% [markdown]
# ## Tap, stream, sum
#
# `tap_routers` records each router's own linear output and the experts that were really used; nothing is
# computed twice. `StatisticsStream` turns them into per-text sums in jitted JAX while torch goes on. The
# logits are not copied: JAX reads torch's memory.

# %%
from mfgjax.trace import StatisticsStream, from_tensor
from mfgjax_extract import tap_routers

TEXTS, LENGTH, BATCH = 48, 64, 8
tokens = torch.randint(0, 256, (TEXTS, LENGTH))
parts = []
stream = StatisticsStream(lambda texts, sums: parts.append(sums))
with torch.inference_mode(), tap_routers(model) as tap:
    for start in range(0, TEXTS, BATCH):
        model(input_ids=tokens[start : start + BATCH])
        layers = tap.latest.layers
        row_text = torch.arange(BATCH, dtype=torch.int32).repeat_interleave(LENGTH)
        stream.add(
            range(start, start + BATCH),
            [layer.logits for layer in layers],
            [layer.choices.int() for layer in layers],
            row_text,
        )
stream.close()

logits = layers[0].logits
shared = from_tensor(logits).unsafe_buffer_pointer() == logits.data_ptr()
print("same memory:", shared)

statistics = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
print({name: value.shape for name, value in vars(statistics).items()})

# %% [markdown]
# ## Fit
#
# Every layer and 500 resamples of the texts at once.

# %%
from mfgjax.estimate import (
    bootstrap_texts,
    congestion_estimator,
    estimate_load,
    estimate_mean_quality,
    fit_congestion,
    unit_weights,
)

weights = unit_weights(TEXTS)
quality = estimate_mean_quality(weights, statistics.token_count, statistics.logit_sum)[0]
load = estimate_load(weights, statistics.dispatch_count)[0]
signed = fit_congestion(quality, load, objective="kl")
paper = fit_congestion(quality, load, objective="l1")
resampled, _ = bootstrap_texts(
    statistics, jax.random.key(0), resamples=500, estimator=congestion_estimator("kl")
)
print("signed congestion per layer:", np.asarray(signed.congestion, float).round(1))
print("spread over resamples:      ", np.std(resampled, axis=0).round(1))
print("Definition 3.1:             ", np.asarray(paper.congestion, float).round(1))

# %% [markdown]
# ## Is it balancing?
#
# These routers are random: there is no force. The dispersion of their logits alone explains a congestion
# of

# %%
from mfgjax.estimate import estimate_dispersion, null_congestion

dispersion = estimate_dispersion(
    weights, statistics.token_count, statistics.logit_sum, statistics.centred_square_sum
)[0]
null = null_congestion(dispersion, top_k=4, experts=16)
print("dispersion of the logits:", np.asarray(dispersion).astype(float).round(2))
print("dispersion null:         ", np.asarray(null).astype(float).round(1))

# %% [markdown]
# Estimate and null agree about the sign, and neither is a sign of collapse or of balance.
#
# **Next.** For files that can be tracked over a training run use `mfgjax-extract`, which resumes after a
# kill; while training, `mfgjax_extract.callback.MonitorCallback` watches the balancing.
#
# **What is not claimed.** A random model says nothing about trained ones. Choices of routers with capacity,
# groups or a selection bias are recorded as they happened, but routers fused into one kernel cannot be
# seen; the tap raises an error there.
