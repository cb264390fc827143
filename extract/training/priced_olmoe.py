"""An OLMoE whose routers choose with a price per expert; transformers' own has none.

The chosen experts are the top-K of `logits + expert_bias`; the weights they are combined with come from
the logits alone, as with DeepSeek-V3's selection bias (DeepSeek-AI, 2024, arXiv 2412.19437, equation 16;
there the bias is added to sigmoid scores). The bias is a buffer, so it is saved and loaded with the
weights.

`save_pretrained` copies this file into the checkpoint's folder: `AutoModel` then gives back a model that
chooses with the bias, if told `trust_remote_code=True`, and refuses the folder otherwise. A model of type
"olmoe" would load it and silently choose without.
"""

import torch
import torch.nn.functional as F
from transformers import OlmoeConfig, OlmoeForCausalLM, OlmoeModel
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock, OlmoeTopKRouter


class PricedOlmoeConfig(OlmoeConfig):
    """An `OlmoeConfig` that plain OLMoE code refuses."""

    model_type = "priced_olmoe"

    def __init__(self, **settings):
        super().__init__(**settings)
        self.auto_map = {"AutoModel": "priced_olmoe.PricedOlmoeModel"}


class PricedOlmoeRouter(OlmoeTopKRouter):
    """Chooses the top-K of `logits + expert_bias`.

    Attributes:
        expert_bias: `[expert]`, in logits; minus the price of each expert.
        load_average: `[expert]` running average of the load that the bias follows, saved with it.
        count: `[expert]` tokens that chose each expert in the last forward in training mode.
    """

    expert_bias: torch.Tensor
    load_average: torch.Tensor
    count: torch.Tensor

    def __init__(self, config):
        super().__init__(config)
        experts = config.num_experts
        self.register_buffer("expert_bias", torch.zeros(experts))
        self.register_buffer("load_average", torch.full((experts,), 1 / experts))
        self.count = torch.zeros(experts, dtype=torch.int64)

    def forward(self, hidden_states):
        hidden_states = hidden_states.reshape(-1, self.hidden_dim)
        logits = F.linear(hidden_states, self.weight)
        probabilities = F.softmax(logits, dtype=torch.float, dim=-1)
        chosen = torch.topk(logits + self.expert_bias, self.top_k, dim=-1).indices
        weights = probabilities.gather(-1, chosen)
        if self.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        if self.training:
            self.count = torch.bincount(chosen.flatten(), minlength=self.num_experts)
        return logits, weights.to(logits.dtype), chosen


def _with_prices(model: OlmoeModel) -> None:
    """Give every layer a priced router around the weight it has: the random start stays the same."""
    for block in model.modules():
        if isinstance(block, OlmoeSparseMoeBlock):
            router = PricedOlmoeRouter(model.config)
            router.weight = block.gate.weight
            block.gate = router


class PricedOlmoeModel(OlmoeModel):
    config_class = PricedOlmoeConfig

    def __init__(self, config):
        super().__init__(config)
        _with_prices(self)


class PricedOlmoeForCausalLM(OlmoeForCausalLM):
    config_class = PricedOlmoeConfig

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        # transformers looks for the experts' class in this file; they are OLMoE's own.
        return True

    def __init__(self, config):
        super().__init__(config)
        _with_prices(self.model)


PricedOlmoeConfig.register_for_auto_class()
PricedOlmoeModel.register_for_auto_class("AutoModel")
PricedOlmoeForCausalLM.register_for_auto_class("AutoModelForCausalLM")
