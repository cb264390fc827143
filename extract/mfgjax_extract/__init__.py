"""Router logits and expert choices from torch models, written as mfgjax traces."""

__version__ = "0.1.0"

from mfgjax_extract.checks import RoutingError as RoutingError
from mfgjax_extract.router_table import RouterRow as RouterRow
from mfgjax_extract.router_table import router_table as router_table
from mfgjax_extract.routers import Router as Router
from mfgjax_extract.routers import find_routers as find_routers
from mfgjax_extract.tap import (
    LayerRouting as LayerRouting,
)
from mfgjax_extract.tap import (
    RouterTap as RouterTap,
)
from mfgjax_extract.tap import (
    Routing as Routing,
)
from mfgjax_extract.tap import (
    tap_routers as tap_routers,
)
