"""Types of tokens whose types are known: likelihood, fit, and how many there are."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy.linalg import null_space
from scipy.optimize import check_grad, linear_sum_assignment
from scipy.spatial.distance import cdist
from scipy.special import softmax
from scipy.stats import multivariate_normal
from sklearn.metrics import adjusted_rand_score

from mfgjax.report.type_tables import (
    type_count_table,
    type_fit_table,
    type_load_table,
    type_separation_table,
    types_over_training_table,
)
from mfgjax.simulate.drawn_tokens import simulate_typed_tokens
from mfgjax.token_types import fit as fit_module
from mfgjax.token_types import kmeans
from mfgjax.token_types.fit import fit_types
from mfgjax.token_types.held_out import cross_validate_types
from mfgjax.token_types.how_many import choose_types, clustering_stability, gap_statistic
from mfgjax.token_types.kmeans import centred, k_means
from mfgjax.token_types.likelihood import TypeModel, token_likelihood, type_loads
from mfgjax.token_types.over_training import match_labels, track_types
from mfgjax.trace import TraceError

EXPERTS, TYPES, MOST, CONGESTION = 8, 3, 4, 6.0
WEIGHT = np.array([0.6, 0.3, 0.1])
PART = 2400
"""Tokens of two folds of three: fits on them share one compilation."""


def simulated(scatter):
    """Three types; scatter 0.6 leaves them apart, 1.5 lets them overlap."""
    quality = centred(1.2 * np.random.default_rng(1).standard_normal((TYPES, EXPERTS)))
    trace, kind = simulate_typed_tokens(quality, WEIGHT, CONGESTION, scatter=scatter, seed=3)
    dispatch = np.eye(EXPERTS)[trace.choices[:, 0, 0]]
    return quality, trace, kind, dispatch


@pytest.fixture(scope="module")
def overlapping():
    return simulated(1.5)


@pytest.fixture(scope="module")
def held(overlapping):
    return cross_validate_types(overlapping[1], (2, TYPES, MOST), folds=3)


def test_likelihood_is_the_mixture_at_the_equilibrium(overlapping):
    quality, trace, _, dispatch = overlapping
    scale = np.linspace(0.8, 1.4, EXPERTS)
    model = TypeModel(quality, WEIGHT, np.asarray(CONGESTION), scale)
    rows = centred(trace.logits[:, 0]), dispatch
    solved = np.asarray(jax.jit(type_loads)(model))
    found = token_likelihood(model, solved, *rows, np)
    load = np.full(EXPERTS, 1 / EXPERTS)
    for _ in range(2000):  # damped best responses, in numpy
        load += 0.2 * (WEIGHT @ softmax(quality - CONGESTION * load, axis=-1) - load)
    np.testing.assert_allclose(WEIGHT @ solved, load, atol=1e-10)
    type_load = softmax(quality - CONGESTION * load, axis=-1)
    # Coordinates of the centred logits: an orthonormal basis of what is orthogonal to (1, ..., 1).
    basis = null_space(np.ones((1, EXPERTS)))
    spread = basis.T @ np.diag(scale**2) @ basis
    density = WEIGHT * np.stack(
        [multivariate_normal.pdf(rows[0] @ basis, own @ basis, spread) for own in quality], axis=-1
    )
    chosen = (rows[1] @ type_load.T) * density
    np.testing.assert_allclose(found.logits, np.log(density.sum(-1)), rtol=1e-9)
    np.testing.assert_allclose(found.joint, np.log(chosen.sum(-1)), rtol=1e-9)
    share = chosen / chosen.sum(-1, keepdims=True)
    np.testing.assert_allclose(found.type_probability, share, atol=1e-9)


def test_gradient_through_the_equilibrium_is_that_of_finite_differences(overlapping):
    _, trace, _, dispatch = overlapping
    logits = centred(trace.logits[:PART, 0])
    rows = fit_module._filled_rows(logits, dispatch[:PART], len(trace.text))
    start = fit_module._start(logits, TYPES, MOST, 0)
    start[0] = np.log1p(CONGESTION)

    def value(free):
        return float(fit_module._loss_and_gradient(free, *rows, MOST)[0][0])

    def gradient(free):
        return np.asarray(fit_module._loss_and_gradient(free, *rows, MOST)[1])

    assert check_grad(value, gradient, start, seed=0) < 1e-6 * (1 + abs(value(start)))


def test_the_fit_recovers_overlapping_types_that_k_means_distorts(overlapping):
    quality, trace, _, dispatch = overlapping
    rows = centred(trace.logits[:PART, 0]), dispatch[:PART]
    fit = fit_types(*rows, TYPES, most_types=MOST, most_tokens=len(trace.text))
    assert fit.converged
    # What a fit returns is what it was fitted with, without the filling.
    for model, load, reached in zip(
        (fit.kmeans, fit.fitted), fit.type_load, fit.log_likelihood, strict=True
    ):
        found = token_likelihood(model, load, *rows, np).joint.mean()
        assert found == pytest.approx(reached, rel=1e-9)
    assert fit.log_likelihood[1] > fit.log_likelihood[0]

    def matched(model):
        apart = cdist(quality, model.quality)
        rows, columns = linear_sum_assignment(apart)
        return apart[rows, columns].max(), np.abs(WEIGHT - model.weight[columns]).max()

    # About 240 tokens of the rarest type: its centre is known to sqrt(8/240) * 1.5 = 0.27.
    centre_error, weight_error = matched(fit.fitted)
    assert centre_error < 0.5 and weight_error < 0.03
    centre_error, weight_error = matched(fit.kmeans)
    assert centre_error > 0.6 and weight_error > 0.1
    assert fit.fitted.congestion == pytest.approx(CONGESTION, rel=0.25)


def test_held_out_texts_say_which_way_and_how_many(overlapping, held):
    frame = type_fit_table(held, resamples=200).query("layers == 'all'").set_index("types")
    row = frame.loc[TYPES]
    assert 0 < row.joint_low < row.joint < row.joint_high
    assert 0 < row.choice_low < row.choice < row.choice_high
    assert choose_types(held) == [TYPES]
    counts = type_count_table(overlapping[1], held, references=3, pairs=3).set_index("types")
    assert counts.gain[TYPES] > 2 * counts.gain_error[TYPES]
    assert counts.gain[MOST] < 2 * counts.gain_error[MOST]
    loads = type_load_table(held).set_index("types")
    assert (loads.likelihood < loads.uniform / 2).all()
    assert held.tokens.sum() == len(overlapping[1].text)
    assert (held.choice < 0).all()


def test_every_text_is_predicted_by_fits_that_have_not_seen_it(overlapping, held):
    trace = overlapping[1]
    assert np.bincount(held.fold).tolist() == [20, 20, 20]
    seen = held.dispatch[held.fold != 0].sum(0)
    np.testing.assert_allclose(held.seen_load[0], seen / seen.sum())
    with pytest.raises(ValueError, match="99 folds of 60 texts"):
        cross_validate_types(trace, (2,), folds=99)


def test_gap_and_stability_find_what_is_there():
    _, trace, _, _ = simulated(0.4)
    points = centred(trace.logits[:, 0])
    gap = gap_statistic(points, 6, references=5)
    assert gap.chosen() == TYPES
    stable = clustering_stability(points, trace.text, TYPES, pairs=4)
    assert (stable > 0.95).all()
    noise = np.random.default_rng(0).standard_normal(points.shape)
    assert gap_statistic(noise, 4, references=5).chosen() == 1
    assert clustering_stability(noise, trace.text, 4, pairs=4).mean() < 0.5


def test_k_means_from_known_centres_takes_one_start_and_looks_for_threads_once():
    _, trace, _, _ = simulated(0.4)
    points = centred(trace.logits[:, 0])
    cold = k_means(points, TYPES)
    part = points[::2]
    warm = k_means(part, TYPES, starts=0, centres=cold.cluster_centers_)
    assert warm.inertia_ <= k_means(part, TYPES).inertia_ * (1 + 1e-9)
    # A bad start besides does no harm: the tighter one is kept.
    bad = k_means(
        points, TYPES, centres=points[:1].repeat(TYPES, 0) + np.eye(TYPES, EXPERTS) * 1e-3
    )
    assert bad.inertia_ == pytest.approx(cold.inertia_)
    assert kmeans._controller.cache_info().misses == 1


def test_a_model_is_the_same_on_the_host():
    free = np.random.default_rng(0).standard_normal(1 + EXPERTS + MOST + MOST * EXPERTS)
    host, device = (
        fit_module._model(free, MOST, np),
        fit_module._model(jax.numpy.asarray(free), MOST),
    )
    for own, other in zip(jax.tree.leaves(host), jax.tree.leaves(device), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-13)
    np.testing.assert_allclose(host.weight, softmax(free[1 + EXPERTS : 1 + EXPERTS + MOST]))


def test_bad_input_is_named(overlapping):
    logits, dispatch = overlapping[1].logits[:, 0], overlapping[3]
    with pytest.raises(ValueError, match=r"both are \[token, expert\]"):
        fit_types(logits, dispatch[1:], 2)
    with pytest.raises(ValueError, match="3 tokens cannot hold 4 types"):
        fit_types(logits[:3], dispatch[:3], 4)
    with pytest.raises(ValueError, match="2 <= types <= tokens"):
        gap_statistic(logits[:3], 8)
    with pytest.raises(ValueError, match="at least 2 texts"):
        clustering_stability(logits, np.zeros(len(logits)), 2)
    with pytest.raises(ValueError, match="needs at least 2"):
        clustering_stability(logits, np.zeros(len(logits)), 1)


def test_types_are_followed_through_training():
    """Two checkpoints, the same four types farther apart in the second, one token in ten elsewhere."""
    rng = np.random.default_rng(4)
    quality = centred(2 * rng.standard_normal((MOST, EXPERTS)))
    weight = [0.4, 0.3, 0.2, 0.1]  # as many tokens as above, whose fits are compiled
    early, kind = simulate_typed_tokens(quality, weight, CONGESTION, scatter=0.4)
    moved = np.where(rng.random(len(kind)) < 0.1, (kind + 1) % MOST, kind)
    logits = 1.5 * quality[moved] + 0.4 * rng.standard_normal((len(kind), EXPERTS))
    metadata = [dataclasses.replace(early.metadata, step=step) for step in (0, 10)]
    late = dataclasses.replace(early, metadata=metadata[1], logits=logits[:, None])
    early = dataclasses.replace(early, metadata=metadata[0])
    found = track_types([early, late], MOST, resamples=20)

    assert found.checkpoints == ("0", "10")
    weight = np.bincount(kind) / len(kind)  # largest first, as the types are numbered
    np.testing.assert_allclose(found.weight[0, 0, 0], weight, atol=0.01)
    np.testing.assert_allclose(found.quality[0, 0], quality, atol=0.1)
    np.testing.assert_allclose(found.quality[1, 0], 1.5 * quality, atol=0.1)
    np.testing.assert_allclose(
        found.moved[0, 1, 0], np.sqrt((0.25 * quality**2).mean(-1)), atol=0.05
    )
    assert np.isnan(found.moved[0, 0]).all() and np.isnan(found.agreement[0, 0])
    stayed = [(kind == moved)[moved == own].mean() for own in range(MOST)]
    np.testing.assert_allclose(found.kept[1, 0], stayed, atol=0.02)
    assert found.agreement[1, 0] == pytest.approx(adjusted_rand_score(kind, moved), abs=0.03)
    assert found.separation[0, 1, 0] > found.separation[0, 0, 0] > 0.8
    assert found.distance[0, 1, 0] == pytest.approx(1.5 * found.distance[0, 0, 0], rel=0.02)

    table = types_over_training_table(found)
    assert len(table) == 2 * MOST and (table.weight_low <= table.weight_high).all()
    assert type_separation_table(found).checkpoint.tolist() == ["0", "10"]
    other = dataclasses.replace(late, text=late.text[::-1])
    with pytest.raises(TraceError, match="the same tokens only"):
        track_types([early, other])


def test_matching_undoes_a_renumbering():
    rng = np.random.default_rng(0)
    labels, new = rng.integers(4, size=200), np.array([2, 0, 3, 1])
    assert match_labels(labels, new[labels], 4).tolist() == new.tolist()
