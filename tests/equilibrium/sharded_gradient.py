"""Run by `test_derivative.py` with two forced devices: gradients of games spread over both."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.game import Game


def total(quality):
    """Sum over games of the first expert's load."""
    return jax.vmap(lambda q: solve_equilibrium(Game(q, 3.0)).load[0])(quality).sum()


quality = np.random.default_rng(3).normal(size=(4, 6))
mesh = jax.make_mesh((2,), ("game",), axis_types=(AxisType.Auto,))
place = NamedSharding(mesh, PartitionSpec("game"))
gradient = jax.jit(jax.grad(total), in_shardings=place, out_shardings=place)(quality)
alone = jax.jit(jax.grad(total))(quality)
result = {
    "devices": len(gradient.sharding.device_set),
    "sharded": np.asarray(gradient).tolist(),
    "alone": np.asarray(alone).tolist(),
}
print(json.dumps(result))
