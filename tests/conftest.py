"""Test settings: float64 available, silent broadcasting and silent promotion forbidden.

Also a simulated sweep that the stages after the trace share.
"""

import gc
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from mfgjax.simulate.drawn_tokens import drawn_trace
from mfgjax.trace import write_trace
from mfgjax.trace.statistics import statistics_of

# Compiling is most of the suite's time. XLA's older emitters compile in two thirds of it; what they make is slower on
# large batches, which tests do not have. `XLA_FLAGS= make test` compiles as users do. What one worker, or one of the
# commands under test, has compiled, the others load. The variables are for child processes too.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "compiled"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


# What collection imports stays for good, but each full garbage collection walks it: 9.5 of 22.8 CPU seconds of the
# tests of the callback and the lab's rules. None while it is imported, and later ones leave it out.
gc.disable()


def pytest_collection_finish():
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_addoption(parser):
    parser.addoption("--peer", action="store_true", help="also compare with optional packages")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--peer"):
        return
    for item in items:
        if "peer" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="opt-in: --peer"))


MAPS = Path("/proc/self/maps")
MANY_MAPS = 25_000


@pytest.fixture(autouse=True, scope="module")
def room_for_programs():
    """Compiled programs hold memory maps, of which Linux allows a process 65,530: at the limit LLVM aborts."""
    yield
    if MAPS.exists() and MAPS.read_bytes().count(b"\n") > MANY_MAPS:
        jax.clear_caches()


TEXTS, LAYERS, EXPERTS, TOP_K, TOKENS = 12, 2, 16, 4, 300
DISPERSIONS = {0: 0.8, 100: 1.4, 300: 2.2, 1000: 3.0, 3000: 2.9, 6000: 2.0}


@pytest.fixture(scope="session")
def sweep_folder(tmp_path_factory):
    """Six checkpoints of a router without balancing, whose logit dispersion rises and falls."""
    folder = tmp_path_factory.mktemp("sweep")
    rng = np.random.default_rng(0)
    text = np.repeat(np.arange(TEXTS, dtype=np.int32), TOKENS)
    quality = 0.3 * rng.standard_normal((LAYERS, EXPERTS))
    for step, dispersion in DISPERSIONS.items():
        noise = rng.standard_normal((len(text), LAYERS, EXPERTS))
        logits = (quality + dispersion * noise).astype(np.float32)
        choices = np.argsort(-logits, axis=-1)[..., :TOP_K]
        names = {"revision": f"step{step}-tokens{1000 * step}", "tokens_seen": 1000 * step}
        trace = drawn_trace(logits, choices, TEXTS, step=step, aux_loss_coef=0.01, **names)
        write_trace(folder / f"step{step}.statistics.safetensors", statistics_of(trace))
    return folder
