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
# # Calibration: set a congestion by hand, read it back
#
# An effective congestion is a description until somebody sets one and an estimator returns it. That can be
# done. Let the router choose the top-K of $z + b$ and let its bias leak,
#
# $$b \leftarrow b + \eta\,\big((1/M - f) - b/\gamma\big).$$
#
# At rest $b = -\gamma (f - 1/M)$: the router plays the paper's game at a $\gamma$ that we chose. $\gamma = 0$
# is no balancing, $\gamma \to \infty$ the loss-free rule.
#
# What follows is a **simulation**, small enough to run here: independent Gaussian logits whose spread differs
# from expert to expert, one draw. A trained model is another question; nothing here answers it.

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np

from mfgjax.estimate import counterfactual_excess, permutation_excess
from mfgjax.price import estimate_price_slope, reveal_price, token_congestion_interval
from mfgjax.trace import TokenTrace, TraceMetadata

M, K, TEXTS, TOKENS = 16, 4, 64, 150
rng = np.random.default_rng(0)
quality = 0.3 * rng.standard_normal(M)
spread = np.linspace(1.4, 2.6, M)[rng.permutation(M)]
logits = (quality + spread * rng.standard_normal((4 * TEXTS * TOKENS, M))).astype(np.float32)


def choose(z, bias):
    return np.argpartition(-(z + bias), K, axis=-1)[:, :K]


def bias_at_rest(dose, start):
    """What the leaky rule comes to on all tokens."""
    bias = start
    for _ in range(30):
        load = np.bincount(choose(logits, bias).ravel(), minlength=M) / (len(logits) * K)
        bias = bias + min(0.5, 8 / max(dose, 1)) * (-dose * (load - 1 / M) - bias)
    return bias


# %% [markdown]
# The estimators see a quarter of the tokens, in 64 texts: a trace as `mfgjax-extract` writes one.

# %%
text = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)
metadata = TraceMetadata(
    kind="tokens",
    model="simulated",
    revision="main",
    experts=M,
    top_k=K,
    layers=("0",),
    texts_hash="simulated",
    text_count=TEXTS,
    routing={
        "selection_score": ["logits"],
        "selection_unit": [2.0**-24],
        "selection_groups": [None],
        "logit_dtype_in_model": "float32",
    },
)


def trace_of(bias):
    seen = logits[: len(text)]
    choices = choose(seen, bias).astype(np.uint8)
    return TokenTrace(metadata, seen[:, None], choices[:, None], text, bias[None].astype("f4"))


DOSES = [0, 5, 10, 20, 40]
found, bias = {}, np.zeros(M)
for dose in DOSES:
    bias = bias_at_rest(dose, bias)
    trace = trace_of(bias)
    revealed = reveal_price(trace)
    price = estimate_price_slope(trace, revealed=revealed)
    tokens = token_congestion_interval(trace, revealed=revealed)
    field = permutation_excess(trace)
    free = counterfactual_excess(trace)
    found[dose] = {
        "price slope": (price.congestion[0], *price.interval[0]),
        "token congestion": (tokens.congestion[0], *tokens.interval[0]),
        "signed, raw": (field.congestion[0], *np.ravel(field.congestion_interval)),
        "over permutation": (field.excess[0], *np.ravel(field.excess_interval)),
        "over counterfactual": (free.excess[0], *np.ravel(free.excess_interval)),
    }
    print(
        dose, {name: np.round(np.asarray(v, float), 1).tolist() for name, v in found[dose].items()}
    )

# %% [markdown]
# ## Dose against estimate
#
# On the diagonal an estimator returns what was set. Bars are 95% intervals over texts; points of one dose
# stand side by side so that they can be seen.

# %%
STYLES = {
    "price slope": ("#D55E00", "o"),
    "token congestion": ("#009E73", "D"),
    "over counterfactual": ("#0072B2", "s"),
    "over permutation": ("#56B4E9", "^"),
    "signed, raw": ("#666666", "X"),
}
figure, panel = plt.subplots(figsize=(6, 5), constrained_layout=True)
panel.axline((0, 0), slope=1, color="black", ls=":", lw=1.5, label="dose = estimate")
for place, (name, (colour, marker)) in enumerate(STYLES.items()):
    value, low, high = np.array([found[dose][name] for dose in DOSES], float).T
    at = np.array(DOSES) + 0.6 * (place - 2)
    panel.vlines(at, low, high, color=colour, lw=1.5)
    panel.plot(at, value, marker, color=colour, ms=6, label=name)
panel.set(xlabel="congestion set by hand", ylabel="estimate")
panel.spines[["top", "right"]].set_visible(False)
_ = panel.legend(frameon=False, loc="upper left")

# %% [markdown]
# ## Where each leaves it
#
# * **Price slope.** Every token that chose $i$ and not $j$ bounds $b_i - b_j$ from below; the bounds give the
#   price of each expert within a thousandth or so, and its slope on the load is the congestion. Nothing is assumed
#   of the logits. What is uncertain is the load: at the largest dose it is nearly even, and the interval grows.
# * **Token congestion** asks at which $\gamma$ the top-K of $z - \gamma f$ has the load $f$. The price is a line in
#   the load here, so the two agree.
# * **Signed, raw**, the mean-field fit to mean logits and loads, starts below 0 without any price: that is
#   the null, what the spread of the logits does alone. With one spread $\sigma$ for all experts it would be the
#   dose plus $M(\sigma/h - 1)$ (theory, "A congestion set by hand").
# * **Over permutation** and **over counterfactual** take a null off and pass through 0. Their slope is about one
#   half, not one: experts of unlike spread answer a price unlike, and a mean logit is not where a price acts. With
#   equal spreads both would stay near the diagonal.
#
# So: where choices and logits were kept, read the price. An excess over a null shows that a congestion is there
# and whether it grew; its size is that of the dose only where experts' logits differ in their means alone.
