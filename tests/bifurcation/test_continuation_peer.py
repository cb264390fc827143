"""Opt-in: the same branches from PyCont-Lite, a public continuation package (`pytest --peer`)."""

import jax.numpy as jnp
import numpy as np
import pytest

from mfgjax.bifurcation.diagram import feedback_diagram

PEER_TOL = 1e-3  # its events are located by finite differences and a secant, to about 1e-4


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
def test_branches_of_pycont_lite():
    pycont = pytest.importorskip("pycont")
    quality = np.array([0.05, -0.05])

    def residual(logits, feedback):
        weight = np.exp(logits - logits.max())
        return quality + feedback * weight / weight.sum() - logits

    diagram = feedback_diagram(jnp.asarray(quality), feedback_range=(1.0, 4.0))
    lost = next(branch for branch in diagram.branches[1:])
    start, top = np.asarray(lost.state[0]), float(lost.parameter[0])
    settings = {
        "param_min": 1.0,
        "param_max": 4.0,
        "bifurcation_detection": False,
        "analyze_stability": False,
        "initial_directions": "decrease_p",
    }
    theirs = pycont.arclengthContinuation(
        residual, start, top, 1e-6, 0.02, 1e-3, 600, settings, verbosity=0
    )
    feedback = np.concatenate([np.ravel(branch.p_path) for branch in theirs.branches])
    logits = np.concatenate([branch.u_path for branch in theirs.branches])
    assert feedback.min() == pytest.approx(diagram.folds[0], abs=PEER_TOL)
    count = int(lost.points)
    ours = np.column_stack([lost.state[:count], lost.parameter[:count]])
    points = np.column_stack([logits, feedback])
    inside = (feedback > 1.0) & (feedback < 4.0)
    # each of their points lies on our polygon, to second order in our step
    start, along = ours[:-1], np.diff(ours, axis=0)
    offset = points[inside][:, None] - start[None]
    share = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    distance = np.linalg.norm(offset - share[..., None] * along, axis=-1).min(axis=1)
    assert distance.max() < 5e-3
