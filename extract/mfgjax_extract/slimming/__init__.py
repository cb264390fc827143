"""Slim the experts of a mixture instead of dropping some: SlimMoE (arXiv 2506.18349) on transformers' models.

`plan_slimming` says what will be cut, `neuron_scores` which units matter least, `slim` cuts and builds
the student. `distil` trains it on its teacher's logits; `run_slimming` does it all in stages. torch only.
"""

from mfgjax_extract.slimming.cut import choose_units, slim
from mfgjax_extract.slimming.layout import UnitBlock, expert_blocks
from mfgjax_extract.slimming.plan import SlimPlan, plan_slimming, usable_width
from mfgjax_extract.slimming.scores import SCORES, Scores, neuron_scores

__all__ = [
    "SCORES",
    "Scores",
    "SlimPlan",
    "UnitBlock",
    "choose_units",
    "expert_blocks",
    "neuron_scores",
    "plan_slimming",
    "slim",
    "usable_width",
]
