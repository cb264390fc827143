"""The router of a Mixture-of-Experts model as a congestion game, in JAX.

`mfgjax.track("traces/")` is the main job: traces of checkpoints in, effective congestion per
checkpoint and layer out, with bootstrap intervals and phases. The folders follow the data:
`trace`, `estimate`, `dynamics`, `report`; the theory lives in `game` and `equilibrium`.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mfgjax")
except PackageNotFoundError:  # a source tree that is on the path but not installed
    __version__ = "0+unknown"

from mfgjax.track import track

__all__ = ["__version__", "track"]
