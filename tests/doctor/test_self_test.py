"""The self-test finds what is wrong, and only that."""

import jax
import numpy as np
import pytest

from mfgjax.doctor import self_test
from mfgjax.doctor.environment import inspect_environment
from mfgjax.game import Game


def test_reference_is_the_fixed_point():
    rng = np.random.default_rng(1)
    quality, congestion = rng.standard_normal((5, 7)), np.geomspace(0.01, 1e4, 5)
    load = self_test.reference_loads(quality, congestion)
    score = quality - congestion[:, None] * load
    response = np.exp(score - score.max(-1, keepdims=True))
    response /= response.sum(-1, keepdims=True)
    # The response multiplies rounding in the load by the congestion.
    assert np.abs(response - load).max() < 1e-15 * congestion.max()
    np.testing.assert_allclose(load.sum(-1), 1, atol=1e-14)


@pytest.fixture(scope="module")
def checks():
    return self_test.run_self_test(["float64"])


def test_this_machine_passes(checks):
    assert [check.found for check in checks if not check.passed] == []
    assert len(checks) == 5


@pytest.mark.parametrize("fault", ["load", "bound", "status"])
def test_a_wrong_load_or_certificate_or_status_is_found(fault):
    exact = np.full((self_test.GAMES, 4), 0.25)

    class Solution:
        load = exact + (1e-6 * np.array([1, -1, 0, 0]) if fault == "load" else 0)
        error_bound = np.full(self_test.GAMES, 1.0 if fault == "bound" else 1e-10)
        status = np.full(self_test.GAMES, int(fault == "status"))

    assert not self_test._certificate_check("float64", Solution, exact).passed


@pytest.mark.parametrize("fault", [None, "fractions", "bound", "status"])
def test_wrong_fractions_of_a_type_are_found(fault):
    game = Game(np.zeros((self_test.GAMES, 2, 4)), 3.0, 1.0, np.full(2, 0.5))
    even = np.full((self_test.GAMES, 2, 4), 0.25)

    class Solution:
        # The load stays even: only the types' own fractions are off.
        type_load = even + (
            1e-6 * np.array([[1, -1, 0, 0], [-1, 1, 0, 0]]) if fault == "fractions" else 0
        )
        error_bound = np.full(self_test.GAMES, 1.0 if fault == "bound" else 1e-10)
        status = np.full(self_test.GAMES, int(fault == "status"))

    assert self_test._types_check("float64", game, Solution).passed == (fault is None)


def test_environment_says_what_is_there():
    found = inspect_environment()
    assert found.versions["jax"] == jax.__version__
    assert found.devices[0]["platform"] == jax.devices()[0].platform
    assert found.x64 is True
