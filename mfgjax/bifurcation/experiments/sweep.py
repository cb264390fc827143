"""Train over strengths and seeds, and put theory beside the result, labelled by xarray."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jaxtyping import Array, Float, Int

from mfgjax.bifurcation.experiments.trainable_moe import (
    Training,
    content_gap,
    content_threshold,
    train_two_experts,
)
from mfgjax.bifurcation.smearing import stationary_gap


@dataclass(frozen=True)
class Task:
    """A classification task, float32 inputs, split into a training and a held-out part."""

    name: str
    inputs: Float[Array, "token features"]
    labels: Int[Array, " token"]
    held_inputs: Float[Array, "held features"]
    held_labels: Int[Array, " held"]
    classes: int


def digits_task(*, held_share: float = 0.25, seed: int = 0) -> Task:
    """The 8 x 8 digits of scikit-learn (1,797 images, no download), features in [-1, 1]."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(digits))
    inputs = (np.asarray(images)[order] / 8.0 - 1.0).astype(np.float32)
    labels = np.asarray(digits)[order].astype(np.int32)
    cut = int(len(labels) * (1.0 - held_share))
    return Task("digits", *_split(inputs, labels, cut), classes=10)


def blobs_task(*, tokens: int = 512, features: int = 4, classes: int = 4, seed: int = 0) -> Task:
    """Gaussian blobs: a task that either expert can do, so that only the router is at stake."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, features))
    labels = rng.integers(classes, size=tokens).astype(np.int32)
    inputs = (centres[labels] + 0.5 * rng.normal(size=(tokens, features))).astype(np.float32)
    return Task("blobs", *_split(inputs, labels, tokens * 3 // 4), classes=classes)


def _split(inputs, labels, cut):
    parts = inputs[:cut], labels[:cut], inputs[cut:], labels[cut:]
    return tuple(jnp.asarray(part) for part in parts)


def sweep_strengths(
    task: Task, strengths: np.ndarray, *, seeds: int, training: Training, seed: int = 0
) -> xr.Dataset:
    """Train at every strength with every seed and compare the load with theory.

    Args:
        task: what to learn.
        strengths: feedback strengths.
        seeds: runs at each strength.
        training: settings, the same for all.
        seed: of the random keys.

    Returns:
        Dataset over (strength, seed): `load_gap`, `imbalance`, `accuracy`; `theory`, the absolute load
        gap of the mean field given the run's own content logits; `threshold`; and over strength
        `smeared`, the expected imbalance at this step and batch size (NaN with content or loss).
    """
    grid = jnp.asarray(strengths, jnp.float32)
    keys = jax.random.split(jax.random.key(seed), (len(strengths), seeds))

    def one(key, strength):
        run = train_two_experts(
            key,
            strength,
            task.inputs,
            task.labels,
            task.held_inputs,
            task.held_labels,
            classes=task.classes,
            training=training,
        )
        _, theory = content_gap(run.gap, strength, run.content, training)
        threshold = content_threshold(run.content, training)
        return run, jnp.abs(theory), threshold, run.content.std()

    # optax and flax mix Python and array dtypes
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        over_seeds = jax.vmap(one, (0, None))
        run, theory, threshold, spread = jax.jit(jax.vmap(over_seeds))(keys, grid)
    smeared = jnp.full_like(grid, jnp.nan)
    if not training.content and not training.aux_loss_coef:
        noise = jnp.asarray(training.step_size / training.batch_size, grid.dtype)
        at_zero = lambda s: stationary_gap(s, jnp.zeros_like(s), noise, training.response)  # noqa: E731
        smeared = jax.jit(jax.vmap(lambda s: at_zero(s).mean_imbalance))(grid)
    dims = ("strength", "seed")
    data = xr.Dataset(
        {
            "load_gap": (dims, np.asarray(run.load_gap)),
            "imbalance": (dims, np.asarray(run.imbalance)),
            "accuracy": (dims, np.asarray(run.accuracy)),
            "theory": (dims, np.asarray(theory)),
            "threshold": (dims, np.asarray(threshold)),
            "content_spread": (dims, np.asarray(spread)),
            "smeared": ("strength", np.asarray(smeared)),
        },
        coords={"strength": np.asarray(strengths), "seed": np.arange(seeds)},
        attrs={
            "task": task.name,
            **{name: str(value) for name, value in training._asdict().items()},
        },
    )
    data["imbalance"].attrs["long_name"] = "mean |load 1 - load 2| over the last quarter"
    data["theory"].attrs["long_name"] = "|load 1 - load 2| of the mean field (derived)"
    data["smeared"].attrs["long_name"] = "expected |load 1 - load 2| at this step and batch size"
    data["accuracy"].attrs["long_name"] = "held-out accuracy"
    data["threshold"].attrs["long_name"] = "strength at which balance is lost, given the content"
    return data
