"""Speed beside other programs: same data, same start, same stopping, one core.

Stopping is what Newton's decrement of 1e-4 means: 5e-5 nats below the maximum of the log-likelihood, which
Newton finds first. Peers: a vectorised EM in numpy, `cgmm`, and the R package `meteorits`; those that are
not installed say so in their row.
"""

import importlib.util
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.gaussian_moe_truths import TRUTHS, draw, near_start
from mfgjax.gaussian_moe import Mixture, fit_mixture

ROWS, MISSING = 10_000, "not installed"
MOST_STEPS = 3000
PATIENCE = 20.0
"""CPU seconds after which a peer is stopped in the middle of one data set."""


def three_lines() -> Mixture:
    """A regular mixture of three experts, in thirds of [0, 1]."""
    return Mixture(
        np.array([[-15.0], [0.0], [15.0]]) - 15.0,
        np.array([10.0, 5.0, -5.0]) + 5.0,
        np.array(np.nan),
        np.array([[2.0], [-3.0], [4.0]]),
        np.array([0.0, 1.5, -3.0]),
        np.array([0.04, 0.09, 0.04]),
    )


def crossing_lines() -> Mixture:
    """Two noisy lines that cross behind a soft gate: expectation-maximisation is slow."""
    return Mixture(
        np.array([[3.0], [0.0]]),
        np.array([-1.5, 0.0]),
        np.array(np.nan),
        np.array([[-1.0], [2.0]]),
        np.array([0.5, -1.0]),
        np.array([0.16, 0.25]),
    )


class NumpyEM:
    """Experts by weighted least squares, the gate by one Newton step with halving; samples last."""

    def __init__(self, x: np.ndarray, y: np.ndarray, start: Mixture):
        self.x, self.y = np.stack([x, np.ones_like(x)]), y
        self.pair = self.x[[0, 0, 1]] * self.x[[0, 1, 1]]
        weight, offset = np.asarray(start.weight)[:, 0], np.asarray(start.offset)
        self.gate = np.stack([weight - weight[-1], offset - offset[-1]], -1)[:-1]
        self.line = np.stack([np.asarray(start.slope)[:, 0], np.asarray(start.intercept)], -1)
        self.variance = np.array(start.variance)

    def log_gate(self, gate: np.ndarray) -> np.ndarray:
        logit = np.concatenate([gate @ self.x, np.zeros((1, len(self.y)))])
        top = logit.max(0)
        return logit - top - np.log(np.exp(logit - top).sum(0))

    def expect(self) -> float:
        log_gate = self.log_gate(self.gate)
        away = self.y - self.line @ self.x
        joint = log_gate - 0.5 * (
            away**2 / self.variance[:, None] + np.log(2 * np.pi * self.variance)[:, None]
        )
        top = joint.max(0)
        power = np.exp(joint - top)
        total = power.sum(0)
        self.share, self.chance = power / total, np.exp(log_gate)
        self.value = (self.share * log_gate).sum()
        return float((top + np.log(total)).sum())

    def maximise(self) -> None:
        r, p = self.share, self.chance
        xx, xy = r @ self.pair.T, r @ (self.x * self.y).T
        gram = xx[:, [0, 1, 1, 2]].reshape(-1, 2, 2)
        self.line = np.linalg.solve(gram, xy[..., None])[..., 0]
        self.variance = (r * (self.y - self.line @ self.x) ** 2).sum(-1) / r.sum(-1)
        free = len(p) - 1
        gradient = ((r - p)[:-1] @ self.x.T).ravel()
        spread = np.eye(free)[..., None] * p[:-1] - p[:-1, None] * p[None, :-1]
        block = (spread.reshape(free * free, -1) @ self.pair.T)[:, [0, 1, 1, 2]]
        matrix = block.reshape(free, free, 2, 2).transpose(0, 2, 1, 3).reshape(2 * free, -1)
        move = np.linalg.solve(matrix + 1e-12 * np.eye(2 * free), gradient).reshape(free, 2)
        for _ in range(30):
            if (r * self.log_gate(self.gate + move)).sum() >= self.value:
                self.gate = self.gate + move
                return
            move = move / 2


def numpy_em(x, y, start, target):
    began, steps = time.process_time(), 0
    em = NumpyEM(x, y, start)
    while (reached := em.expect()) < target and steps < MOST_STEPS:
        em.maximise()
        steps += 1
    return time.process_time() - began, steps, reached


def cgmm(x, y, start, target):
    from cgmm.moe import MixtureOfExpertsRegressor, _Params  # pyright: ignore[reportMissingImports]

    em = NumpyEM(x, y, start)
    began, steps = time.process_time(), 0
    model = MixtureOfExpertsRegressor(
        len(em.line), gating_penalty=1e-12, reg_covar=1e-12, gating_tol=1e-10
    )
    params = _Params(
        A=em.line[:, :1, None].copy(), b=em.line[:, 1:].copy(), cov=em.variance[:, None, None].copy(),
        W=em.gate[:, :1].copy(), c=em.gate[:, 1].copy(),
    )  # fmt: skip
    while True:
        share, mean = model._e_step(x[:, None], y[:, None], params)
        reached = mean * len(y)
        spent = time.process_time() - began
        if reached >= target or steps >= MOST_STEPS or spent > PATIENCE:
            return spent, steps, reached
        params = model._m_step(x[:, None], y[:, None], share, params)
        steps += 1


def meteorits(sets):
    script = Path(__file__).with_name("meteorits.R")
    with tempfile.TemporaryDirectory() as folder:
        for number, (x, y, start, target) in enumerate(sets):
            np.savetxt(f"{folder}/data-{number}.csv", np.stack([x, y], -1), delimiter=",")
            em = NumpyEM(x, y, start)
            numbers = [len(em.line), target, MOST_STEPS, *em.gate[:, ::-1].ravel()]
            numbers += [*em.line[:, ::-1].ravel(), *em.variance]
            np.savetxt(f"{folder}/start-{number}.csv", np.array(numbers, float))
        command = ["Rscript", str(script), folder]
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode:
            return None
        return np.loadtxt(f"{folder}/done.csv", delimiter=",", ndmin=2)


def speed(seed: int) -> list[dict]:
    """CPU seconds per fit of every program, from starts near the truth, and how far they came."""
    rows = []
    cases = {
        "published, two experts": (TRUTHS["linear"], 40),
        "three experts": (three_lines(), 40),
        "two experts that overlap": (crossing_lines(), 40),
    }
    for case, (mixture, sets) in cases.items():
        rng = np.random.default_rng(seed)
        x, y = draw(mixture, sets, ROWS, rng)
        experts = mixture.experts
        start = near_start(mixture, experts, ROWS, sets, rng)

        def fit(x=x, y=y, experts=experts, start=start):
            return jax.block_until_ready(fit_mixture(x, y, experts, starts=0, initial=start))

        fit()
        began = time.process_time()
        found = fit()
        spent = time.process_time() - began
        top = np.asarray(found.log_likelihood)
        base = {"case": case, "n": ROWS}
        rows.append(
            base
            | {
                "program": "mfgjax",
                "sets": sets,
                "CPU seconds per fit": spent / sets,
                "steps": float(np.asarray(found.steps).mean()),
                "reached": float((np.asarray(found.decrement) <= 1e-4).mean()),
            }
        )
        each = [
            (
                x[i, :, 0],
                y[i],
                jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], start),
                top[i] - 5e-5,
            )
            for i in range(sets)
        ]
        done = {"numpy EM": np.array([numpy_em(*one) for one in each])}
        few = each[:5]
        if importlib.util.find_spec("cgmm"):
            done["cgmm"] = np.array([cgmm(*one) for one in few[:1]])
        if shutil.which("Rscript"):
            found_r = meteorits(few)
            if found_r is not None:
                done["R meteorits"] = found_r
        for program in ("numpy EM", "cgmm", "R meteorits"):
            if program not in done:
                rows.append(base | {"program": program, "sets": 0})
                continue
            seconds, steps, reached = done[program].T
            short = top[: len(seconds)] - reached
            rows.append(
                base
                | {
                    "program": program,
                    "sets": len(seconds),
                    "CPU seconds per fit": float(seconds.mean()),
                    "steps": float(steps.mean()),
                    "reached": float((short <= 5e-5).mean()),
                    "largest shortfall, nats": float(short.max()),
                    "times mfgjax": float(seconds.mean() / (spent / sets)),
                }
            )
    return rows
