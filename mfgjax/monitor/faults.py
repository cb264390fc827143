"""The faults that the monitor names, and what each alarm says."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """What is wrong. The first sixteen are balancing that is configured and does not act as meant.

    The commonest way for a mixture of experts to fail is silent: the run looks healthy, and the
    balancing that its configuration asks for does nothing, or something else.
    """

    AUX_NOT_COMPUTED = "auxiliary loss not computed"
    AUX_POOLED = "auxiliary loss pooled over layers"
    AUX_WITHOUT_GRADIENT = "auxiliary loss has no gradient"
    AUX_OF_RAW_LOGITS = "auxiliary loss of raw logits"
    BIAS_NEVER_UPDATED = "selection bias never updated"
    BIAS_ROUNDED = "selection bias rounded"
    COUNTER_ROUNDED = "counter rounded"
    COUNTER_HAS_EVALUATION = "counter holds forwards outside the step"
    COUNTER_MULTIPLE = "counter counts every token more than once"
    COUNTER_PARTIAL = "counter sees a part of the tokens"
    ROUTES_REPLAYED = "choices do not follow the router"
    BIAS_IN_WEIGHTS = "selection bias in the combine weights"
    COUNTER_HAS_PADDING = "counter holds padding"
    LOSS_HIDES_COLLAPSE = "balancing loss improves, load does not"
    EXPERT_DEAD_BY_OUTPUT = "expert with tokens and without output"
    ROUTER_NOT_TRAINED = "router does not learn"
    COUNTER_DIFFERS = "counter differs"
    LOGITS_NOT_FINITE = "logits not finite"
    LOAD_CHANGED = "load became uneven"


ADVICE: dict[Fault, str] = {
    Fault.AUX_NOT_COMPUTED: "In transformers set output_router_logits=True, or the loss is left out.",
    Fault.AUX_POOLED: "Take the loss per layer: pooled, layers that are uneven in opposite ways cancel.",
    Fault.AUX_WITHOUT_GRADIENT: "Look for a detach, a no_grad, or a wrapper whose return value is unused.",
    Fault.AUX_OF_RAW_LOGITS: "Apply the softmax before the mean over tokens: raw logits have no minimum.",
    Fault.BIAS_NEVER_UPDATED: "Call the bias update in the training step, or take the bias out.",
    Fault.BIAS_ROUNDED: "Keep the bias in float32: steps below half a unit in the last place are lost.",
    Fault.COUNTER_ROUNDED: "Count in integers or float32.",
    Fault.COUNTER_HAS_EVALUATION: "Reset the counter before the step, or count in training mode only.",
    Fault.COUNTER_MULTIPLE: "Do not count in the recomputed forward of gradient checkpointing, nor replicas of the same tokens.",
    Fault.COUNTER_PARTIAL: "Add up over micro-batches and ranks before the update.",
    Fault.ROUTES_REPLAYED: "Do not update a bias while routes are replayed.",
    Fault.BIAS_IN_WEIGHTS: "Take the combine weights from the scores without the bias.",
    Fault.COUNTER_HAS_PADDING: "Mask padding before counting.",
    Fault.LOSS_HIDES_COLLAPSE: "Use a loss of the choices really made, such as M sum f P.",
    Fault.EXPERT_DEAD_BY_OUTPUT: "The load cannot show this. Re-initialise the expert, or look at its weight decay.",
    Fault.ROUTER_NOT_TRAINED: "Unfreeze the router, or ignore this fault if it is frozen on purpose.",
    Fault.COUNTER_DIFFERS: "Compare where the counter is filled with where it is reset.",
    Fault.LOGITS_NOT_FINITE: "Stop, and go back to the last checkpoint before it.",
    Fault.LOAD_CHANGED: "Compare learning rate, data and balancing before and after.",
}


@dataclass(frozen=True)
class Alarm:
    """One fault in one layer.

    Attributes:
        step: of the sampled step at which it was certain.
        fault: which.
        layer: name of the layer; empty if it is of the run.
        evidence: the numbers that say so.
    """

    step: int
    fault: Fault
    layer: str
    evidence: str

    @property
    def sentence(self) -> str:
        """Fault, layer, evidence, and what to do."""
        where = f" in {self.layer}" if self.layer else ""
        return f"step {self.step}: {self.fault}{where}: {self.evidence}. {ADVICE[self.fault]}"

    def to_row(self) -> dict[str, Any]:
        """For a line of JSON."""
        return {"kind": "alarm", **asdict(self), "sentence": self.sentence}
