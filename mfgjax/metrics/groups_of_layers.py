"""Groups of layers that tables average over."""

import numpy as np


def layer_groups(layers: int) -> dict[str, np.ndarray]:
    """All layers, and the earlier and later half of them."""
    index = np.arange(layers)
    groups = {"all": index}
    if layers > 1:
        half = (layers + 1) // 2
        groups |= {"early": index[:half], "late": index[half:]}
    return groups
