"""From estimates to what people read: the analysis of a run, its tables, figures and report."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax.report.plot import plot_heat_map, plot_layers, plot_trajectory

_HOME = {
    "plot_heat_map": "plot",
    "plot_layers": "plot",
    "plot_trajectory": "plot",
}
__all__ = [
    "plot_heat_map",
    "plot_layers",
    "plot_trajectory",
]


def __getattr__(name: str):
    """Import a part when it is asked for: `mfgjax.track` has no need of matplotlib."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
