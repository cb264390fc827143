"""Costs: closed-form integrals and slopes against quadrature and differentiation."""

import jax
import numpy as np
import pytest
from scipy.integrate import quad

from mfgjax.game import CapacityBarrier, Linear, Power, Softplus, UserCost
from mfgjax.game.cost import Cost
from mfgjax.game.welfare import MarginalCost

COSTS = [
    Linear(),
    Power(0.5),
    Power(4.0),
    CapacityBarrier(0.6),
    Softplus(0.2, 10.0),
    UserCost(lambda load, p: p * load + load**3, 2.0),
    MarginalCost(Power(2.0)),
]
LOAD = np.array([0.05, 0.2, 0.5])
value_at = jax.jit(lambda cost, load: cost(load))
integral_and_slope = jax.jit(lambda cost, load: (cost.integral(load), cost.slope(load)))


@pytest.mark.parametrize("cost", COSTS, ids=lambda cost: type(cost).__name__)
def test_integral_and_slope(cost: Cost):
    def at(load):
        return float(value_at(cost, np.array([load]))[0])

    expected = [quad(at, 0, load, epsabs=1e-13)[0] for load in LOAD]
    integral, slope = integral_and_slope(cost, LOAD)
    np.testing.assert_allclose(integral, expected, rtol=0, atol=1e-10)
    difference = [(at(load + 1e-6) - at(load - 1e-6)) / 2e-6 for load in LOAD]
    np.testing.assert_allclose(slope, difference, rtol=1e-6)
    assert (np.asarray(slope) > 0).all()
