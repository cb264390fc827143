"""Does it fit? What XLA says a program will use, and what the device has."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp

from mfgjax.lab.train import Trainer

SHARE = 0.8
"""Of the free memory that a lab may plan with."""


def memory_of(trainer: Trainer, runs: int) -> int:
    """Bytes that `runs` runs need at once: arguments, results and temporaries of one chunk."""
    one = jax.eval_shape(lambda: trainer.start([(0, {})]))
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct((runs, *x.shape[1:]), x.dtype), one)
    text = jax.ShapeDtypeStruct((3, 2_000_000), jnp.uint8), jax.ShapeDtypeStruct((3,), jnp.int32)
    used = trainer.run_chunk.lower(state, *text).compile().memory_analysis()
    if used is None:  # a backend that does not say
        return 0
    return used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes


def available_memory() -> int | None:
    """Bytes that may be planned with on the first device; None where nobody says."""
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(SHARE * (stats["bytes_limit"] - stats.get("bytes_in_use", 0)))
    told = Path("/proc/meminfo")
    if device.platform == "cpu" and told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(SHARE * 1024 * int(line.split()[1]))
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return None
