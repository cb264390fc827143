"""Router logits and expert choices from torch models, written as mfgjax traces."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mfgjax_extract.checks import RoutingError
    from mfgjax_extract.router_rows import RouterRow, router_table
    from mfgjax_extract.routers import Router, find_routers
    from mfgjax_extract.tap import LayerRouting, RouterTap, Routing, tap_routers

__version__ = "0.1.0"

__all__ = [
    "LayerRouting",
    "Router",
    "RouterRow",
    "RouterTap",
    "Routing",
    "RoutingError",
    "__version__",
    "find_routers",
    "router_table",
    "tap_routers",
]

_MODULES = {
    "LayerRouting": "tap",
    "Router": "routers",
    "RouterRow": "router_rows",
    "RouterTap": "tap",
    "Routing": "tap",
    "RoutingError": "checks",
    "find_routers": "routers",
    "router_table": "router_rows",
    "tap_routers": "tap",
}


def __getattr__(name: str):
    """Import torch when a name is asked for, not before: `mfgjax-extract --help` needs none."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
