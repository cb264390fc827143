"""Keep what jax has compiled: the second `mfgjax track` starts in a third of the first one's time."""

import os
from pathlib import Path

import platformdirs

FOLDER = "JAX_COMPILATION_CACHE_DIR"
AT_LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


def keep_compiled() -> None:
    """Point jax, before it is imported, to a folder of the user's cache.

    Settings of the user's own win; JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    folder = Path(platformdirs.user_cache_dir("mfgjax")) / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to: compile each time
        return
    os.environ.setdefault(FOLDER, str(folder))
    os.environ.setdefault(AT_LEAST, "0.2")
