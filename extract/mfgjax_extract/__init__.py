"""Router logits and expert choices from torch models, written as mfgjax traces."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax_extract.checks import RoutingError
    from mfgjax_extract.routers import find_routers
    from mfgjax_extract.tap import tap_routers

__version__ = "0.1.0"

__all__ = [
    "RoutingError",
    "__version__",
    "find_routers",
    "tap_routers",
]

_MODULES = {
    "RoutingError": "checks",
    "find_routers": "routers",
    "tap_routers": "tap",
}


def __getattr__(name: str):
    """Import torch when a name is asked for, not before: `mfgjax-extract --help` needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
