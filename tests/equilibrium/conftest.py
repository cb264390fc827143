"""Compiled solvers shared by the tests of this folder: compiling is most of their cost."""

import jax
import pytest

from mfgjax.equilibrium import solve_equilibrium


@pytest.fixture(scope="session")
def solve_batch():
    """`solve_equilibrium` over a batch; compiles once per shape, dtype and cost."""
    return jax.jit(jax.vmap(solve_equilibrium))
