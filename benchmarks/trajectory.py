"""The whole of Table 1 from statistics to intervals: seconds, peak memory, and how both grow.

    python -m benchmarks.trajectory --json FILE

20 checkpoints x 16 layers x 64 experts, 2,000 resamples of 50 texts: 640,000 fits. Each size runs in
a process of its own, so that the peak is its own. Blocks of resamples are spread over one device per
core; set XLA_FLAGS to choose otherwise.
"""

import json
import os
import resource
import subprocess
import sys
import time
from typing import Annotated

# Before JAX starts, here and in the processes started from here: one device per core.
os.environ.setdefault("XLA_FLAGS", f"--xla_force_host_platform_device_count={os.cpu_count()}")

import jax
import jax.numpy as jnp
import numpy as np
import typer

from benchmarks.record import JsonFile, keep, table
from mfgjax.estimate import bootstrap_texts, congestion_estimator
from mfgjax.estimate.inference.interval import percentile_interval
from mfgjax.simulate import draw_truth, simulate_texts

SIZES = {
    "table 1, kl": {"objective": "kl"},
    "table 1, l1": {"objective": "l1"},
    "resamples x 4, kl": {"objective": "kl", "resamples": 8192},
    "layers x 2, kl": {"objective": "kl", "layers": 32},
    "experts x 2, kl": {"objective": "kl", "experts": 128},
}
LARGE = {"10^7 fits, kl": {"objective": "kl", "resamples": 31_250}}


def job(
    objective: str = "kl",
    checkpoints: int = 20,
    layers: int = 16,
    experts: int = 64,
    resamples: int = 2048,
) -> dict:
    """Run one size in this process."""
    statistics = []
    for checkpoint in range(checkpoints):
        key = jax.random.key(checkpoint)
        truth = draw_truth(key, jnp.linspace(5, 40, layers, dtype=jnp.float32), experts)
        statistics.append(simulate_texts(key, truth, texts=50, tokens=14))
    jax.block_until_ready(statistics)
    estimator, key = congestion_estimator(objective), jax.random.key(0)
    mesh = jax.make_mesh((jax.device_count(),), ("block",))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def run(count):
        intervals = []
        for one in statistics[:count]:
            congestion, status = bootstrap_texts(
                one, key, resamples, estimator, memory=2.56e8, mesh=mesh
            )
            intervals.append(percentile_interval(congestion))
            failed.append(int((status != 0).sum()))
        return jax.block_until_ready(intervals)

    failed: list[int] = []
    begun = time.perf_counter()
    run(1)
    compiled = time.perf_counter() - begun
    failed.clear()
    begun = time.perf_counter()
    run(checkpoints)
    seconds = time.perf_counter() - begun
    fits = checkpoints * layers * resamples
    return {
        "fits": fits,
        "first_checkpoint_seconds": compiled,
        "seconds": seconds,
        "fits_per_second": fits / seconds,
        "not_converged": int(np.sum(failed)),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "before_mb": base,
    }


def markdown(record: dict) -> str:
    """The table of the docs."""
    columns = {
        "job": "name",
        "fits": "{fits:,}",
        "seconds": "{seconds:.1f}",
        "fits/s": "{fits_per_second:,.0f}",
        "first checkpoint, with compile (s)": "{first_checkpoint_seconds:.0f}",
        "not converged": "not_converged",
        "peak MB": "{peak_mb:.0f}",
        "before MB": "{before_mb:.0f}",
    }
    return table(record["rows"], columns)


def main(
    json_path: JsonFile = None,
    large: Annotated[bool, typer.Option(help="also the 10^7-fit job")] = False,
    only: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Time the job at several sizes."""
    if only:
        print(json.dumps(job(**json.loads(only))))
        return
    rows = []
    for name, size in (SIZES | (LARGE if large else {})).items():
        command = [sys.executable, "-m", "benchmarks.trajectory", "--only", json.dumps(size)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"name": name, **size, **json.loads(done.stdout.splitlines()[-1])})
        keep(
            json_path, markdown, rows=rows
        )  # after every size: a long run that is stopped keeps what it has
    print(markdown({"rows": rows}))


if __name__ == "__main__":
    typer.run(main)
