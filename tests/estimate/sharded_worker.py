"""One process of a sharded bootstrap; started by test_bootstrap.py."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

rank, processes, port, out = sys.argv[1:]
if int(processes) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(rank))

from mfgjax.estimate import bootstrap_texts, congestion_estimator  # noqa: E402
from mfgjax.simulate import draw_truth, simulate_texts  # noqa: E402

truth = draw_truth(jax.random.key(0), jnp.asarray([10.0, 20.0], jnp.float32), 8)
statistics = simulate_texts(jax.random.key(1), truth, texts=20, tokens=30, top_k=2)
statistics = jax.device_get(statistics)
mesh = Mesh(np.array(jax.devices()), ("resample",))
key = jax.random.key(3)
fit = congestion_estimator("kl")
single, _ = bootstrap_texts(statistics, key, 1000, fit)
sharded, _ = bootstrap_texts(statistics, key, 1000, fit, mesh=mesh)
facts = json.dumps({"devices": jax.device_count(), "processes": jax.process_count()})
np.savez(f"{out}.{rank}.npz", single=single, sharded=sharded, facts=facts)
