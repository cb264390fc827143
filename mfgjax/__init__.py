"""The router of a Mixture-of-Experts model as a congestion game, in JAX.

`mfgjax.track("traces/")` is the main job: traces of checkpoints in, effective congestion per
checkpoint and layer out, with bootstrap intervals and phases. The folders follow the data:
`trace`, `estimate`, `dynamics`, `report`; the theory lives in `game` and `equilibrium`.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax.tracking import track

try:
    __version__ = version("mfgjax")
except PackageNotFoundError:  # a source tree that is on the path but not installed
    __version__ = "0+unknown"

__all__ = ["__version__", "track"]


def __getattr__(name: str):
    """Import jax when `track` is asked for, not before: `mfgjax --help` has no need of it."""
    if name == "track":
        from mfgjax.tracking import track

        return track
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
