"""The router of a Mixture-of-Experts model as a congestion game, in JAX.

`mfgjax.track("traces/")` is the main job: traces of checkpoints in, effective congestion per
checkpoint and layer out, with bootstrap intervals and phases. The folders follow the data:
`trace`, `estimate`, `dynamics`, `report`; the theory lives in `game` and `equilibrium`.

Names are imported when they are asked for: `import mfgjax` is instant, and so is `mfgjax --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfgjax import (
        bifurcation,
        comparison,
        equilibrium,
        estimate,
        game,
        gaussian_moe,
        lab,
        monitor,
        price,
        report,
        scope,
        simulate,
        trace,
    )
    from mfgjax.comparing import compare
    from mfgjax.equilibrium import solve_equilibrium
    from mfgjax.estimate import fit_congestion
    from mfgjax.fitting import fit
    from mfgjax.game import Game
    from mfgjax.report.analysis import analyze
    from mfgjax.tracking import track

    __version__: str

__all__ = [
    "Game",
    "__version__",
    "analyze",
    "bifurcation",
    "compare",
    "comparison",
    "equilibrium",
    "estimate",
    "fit",
    "fit_congestion",
    "game",
    "gaussian_moe",
    "lab",
    "monitor",
    "price",
    "report",
    "scope",
    "simulate",
    "solve_equilibrium",
    "trace",
    "track",
]

_HOME = {
    "Game": "game",
    "analyze": "report.analysis",
    "compare": "comparing",
    "fit": "fitting",
    "fit_congestion": "estimate",
    "solve_equilibrium": "equilibrium",
    "track": "tracking",
}
"""Where the names that are no subpackages live."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        found: Any = _version()
    elif name in _HOME:
        found = getattr(importlib.import_module(f"mfgjax.{_HOME[name]}"), name)
    elif name in __all__:
        found = importlib.import_module(f"mfgjax.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mfgjax")
    except PackageNotFoundError:  # a source tree that is on the path but not installed
        return "0+unknown"
