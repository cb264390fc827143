"""The lab: small MoE language models in flax, trained under different balancing rules, with intervals.

    mfgjax lab run --preset quick --out lab/     train, trace and measure every arm
    mfgjax lab report lab/                       the page: differences, published signs, dose responses

`rule.py` says what a rule is and `rules/` has them; `controller.py` holds a setpoint and can be called from
any training loop; `certificate.py` proves how far a balancing price is from optimal. Results and their
limits: docs/lab.md. A rule of your own: docs/how-to/lab.md. Names are imported when they are asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfgjax.lab.certificate import certify_balance
    from mfgjax.lab.controller import cap_load, set_congestion, start_holding
    from mfgjax.lab.preset import read_preset
    from mfgjax.lab.rule import Context, Rule, Selection, choose, choose_biased, load_of, zero_bias
    from mfgjax.lab.rules import RULES
    from mfgjax.lab.run import run_lab

_HOME = {
    "Context": "rule",
    "RULES": "rules",
    "Rule": "rule",
    "Selection": "rule",
    "cap_load": "controller",
    "certify_balance": "certificate",
    "choose": "rule",
    "choose_biased": "rule",
    "load_of": "rule",
    "read_preset": "preset",
    "run_lab": "run",
    "set_congestion": "controller",
    "start_holding": "controller",
    "zero_bias": "rule",
}

__all__ = [
    "RULES",
    "Context",
    "Rule",
    "Selection",
    "cap_load",
    "certify_balance",
    "choose",
    "choose_biased",
    "load_of",
    "read_preset",
    "run_lab",
    "set_congestion",
    "start_holding",
    "zero_bias",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"mfgjax.lab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__  # so that tools which list names find those that were not asked for yet
