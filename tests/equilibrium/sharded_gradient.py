"""Run by `test_derivative.py` with two forced devices: gradients of games spread over both."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mfgjax.equilibrium import solve_equilibrium
from mfgjax.game import Game


def total(quality):
    """Sum over games of the first expert's load."""
    return jax.vmap(lambda q: solve_equilibrium(Game(q, 3.0)).load[0])(quality).sum()


def typed_total(quality):
    """The same with two types."""

    def load(q):
        both = jnp.stack([q, q[::-1]])
        return solve_equilibrium(Game(both, 3.0, 1.0, jnp.array([0.3, 0.7]))).load[0]

    return jax.vmap(load)(quality).sum()


quality = np.random.default_rng(3).normal(size=(4, 6))
mesh = jax.make_mesh((2,), ("game",), axis_types=(AxisType.Auto,))
spec = PartitionSpec("game")
place = NamedSharding(mesh, spec)
gradient = jax.jit(jax.grad(total), in_shardings=place, out_shardings=place)(quality)
mapped = jax.shard_map(jax.grad(typed_total), mesh=mesh, in_specs=spec, out_specs=spec)

explicit = jax.make_mesh((2,), ("game",), axis_types=(AxisType.Explicit,))
try:
    jax.jit(total)(jax.device_put(quality, NamedSharding(explicit, spec)))
    refusal = ""
except TypeError as error:
    refusal = str(error)
result = {
    "devices": len(gradient.sharding.device_set),
    "sharded": np.asarray(gradient).tolist(),
    "quality": quality.tolist(),
    "mapped": np.asarray(jax.jit(mapped)(quality)).tolist(),
    "refusal": refusal,
}
print(json.dumps(result))
