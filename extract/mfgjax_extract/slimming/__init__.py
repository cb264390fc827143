"""Slim the experts of a mixture instead of dropping some: SlimMoE (arXiv 2506.18349) on transformers' models.

`plan_slimming` says what will be cut, `neuron_scores` which units matter least, `slim` cuts and builds
the student. `distil` trains it on its teacher's logits; `run_slimming` does it all in stages. torch only.
"""

from mfgjax_extract.slimming.cut import choose_units, slim
from mfgjax_extract.slimming.plan import plan_slimming
from mfgjax_extract.slimming.scores import neuron_scores

__all__ = [
    "choose_units",
    "neuron_scores",
    "plan_slimming",
    "slim",
]
