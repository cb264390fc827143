"""One process of a sharded bootstrap; started by test_bootstrap.py."""

import json
import sys

import jax
import numpy as np
from jax.sharding import Mesh

rank, processes, port, out = sys.argv[1:]
if int(processes) > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", int(processes), int(rank))

from mfgjax.estimate import bootstrap_texts, congestion_estimator  # noqa: E402
from mfgjax.trace.schema import TextStatistics  # noqa: E402

statistics = TextStatistics(**np.load(f"{out}.npz"))
mesh = Mesh(np.array(jax.devices()), ("resample",))
fit = congestion_estimator("kl")
sharded, _ = bootstrap_texts(statistics, jax.random.key(2), 1000, fit, mesh=mesh)
facts = json.dumps({"devices": jax.device_count(), "processes": jax.process_count()})
np.savez(f"{out}.{rank}.npz", sharded=sharded, facts=facts)
