"""Numbers that Megatron-LM and torchtitan log, under the monitor's names.

    scalars = read_logged(logged)      # a row of a tracker: {"moe/load_balancing_loss_layer_3": 1.2, ...}

What they log is losses and loads, not choices: no record can be made of it, and no alarm. Names of this
module's table alone are translated; all others are left out.

| framework | logged | becomes |
|---|---|---|
| Megatron-LM | `moe/{name}_layer_{i}`, `{name}` | `moe/{name}/layer_{i}`, `moe/{name}/mean` |
| VeOmni, verl | `moe/max_vio/layer_{i}` | `moe/max_violation/layer_{i}` |
| Automodel | `moe/layer_{i}/{name}` | `moe/{name}/layer_{i}` |
| torchtitan and others | `tokens_per_expert` of a layer, as a list | MaxVio, entropy, dead share, max share |
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from mfgjax.monitor.sums import MonitorError

_LOSSES = (
    *("load_balancing_loss", "seq_load_balancing_loss", "global_load_balancing_loss"),
    "z_loss",
)
_SAME = {"max_vio": "max_violation", "maxvio": "max_violation", "dead_expert_frac": "dead_share"}
_MEGATRON = re.compile(rf"(?:moe/)?({'|'.join(_LOSSES)})(?:_layer_(\d+))?$")
_BY_METRIC = re.compile(r"(?:[\w.]+/)*moe/(\w+)/layer_(\d+)$")
_BY_LAYER = re.compile(r"(?:[\w.]+/)*moe/layer_(\d+)/(\w+)$")
_COUNTS = re.compile(r"(?:.*?)(?:layers?[._/])(\d+)[\w./]*tokens_per_expert$")


def read_logged(logged: Mapping[str, Any]) -> dict[str, float]:
    """Scalars of one step under the monitor's names.

    Raises:
        MonitorError: none of the names is known.
    """
    found: dict[str, float] = {}
    for name, value in logged.items():
        if match := _MEGATRON.match(name):
            place = "mean" if match[2] is None else f"layer_{match[2]}"
            found[f"moe/{match[1]}/{place}"] = float(value)
        elif match := _COUNTS.match(name):
            for metric, number in _of_counts(name, value).items():
                found[f"moe/{metric}/layer_{match[1]}"] = number
        elif match := _BY_METRIC.match(name):
            found[f"moe/{_SAME.get(match[1], match[1])}/layer_{match[2]}"] = float(value)
        elif match := _BY_LAYER.match(name):
            found[f"moe/{_SAME.get(match[2], match[2])}/layer_{match[1]}"] = float(value)
    if not found:
        raise MonitorError(
            f"none of {sorted(logged)[:6]} is a name that Megatron-LM, torchtitan, VeOmni, verl or Automodel "
            "gives a router's numbers"
        )
    return found


def _of_counts(name: str, value: Any) -> dict[str, float]:
    count = np.asarray(value, float)
    if count.ndim != 1 or not np.isfinite(count).all() or (count < 0).any() or not count.sum():
        raise MonitorError(f"{name} is {value!r}; counts of the experts of one layer were expected")
    load = count / count.sum()
    alive = load[load > 0]
    return {
        "max_violation": float(len(load) * load.max() - 1),
        "entropy": float(-(alive * np.log(alive)).sum() / np.log(len(load))),
        "dead_share": float((load == 0).mean()),
        "max_share": float(load.max()),
    }
