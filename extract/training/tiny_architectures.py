"""Tiny models of four published shapes, from their own configurations: random, or trained for minutes.

They have the routers of their families (how experts are scored, chosen and balanced) and nothing of
their size: widths of 64, two layers, bytes as tokens. What they show is that routing of such a shape comes
through, not what a trained model of that family does.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    JetMoeConfig,
    JetMoeForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
)

WIDTH, LAYERS, HEADS, ALPHA = 64, 2, 2, 0.01
_NO_STOP: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}


@dataclass(frozen=True)
class Shape:
    """A family with its numbers of experts, and which of its routers to look at.

    Attributes:
        name: of the model in tables.
        family: one of `BUILDERS`.
        experts: M.
        top_k: K.
        layers: regular expression of router paths.
        stream: `"decoder"` or `"encoder"`.
    """

    name: str
    family: str
    experts: int
    top_k: int
    layers: str = ""
    stream: str = "decoder"


SHAPES = (
    Shape("JetMoE shape, MLP experts", "jetmoe", 8, 2, r"mlp"),
    Shape("JetMoE shape, attention experts", "jetmoe", 8, 2, r"attention"),
    Shape("Mixtral shape", "mixtral", 8, 2),
    Shape("OLMoE shape", "olmoe", 64, 8),
    Shape("Switch-8 shape, encoder", "switch", 8, 1, stream="encoder"),
    Shape("Switch-8 shape, decoder", "switch", 8, 1),
    Shape("Switch-32 shape, encoder", "switch", 32, 1, stream="encoder"),
)


def build(family: str, experts: int, top_k: int, seed: int = 0) -> Any:
    """A random model of the family, in training mode."""
    torch.manual_seed(seed)
    return BUILDERS[family](experts, top_k)


def _olmoe(experts: int, top_k: int) -> Any:
    config = OlmoeConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=WIDTH // 2,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        num_experts=experts,
        num_experts_per_tok=top_k,
        router_aux_loss_coef=ALPHA,
        **_NO_STOP,
    )
    return OlmoeForCausalLM(config)


def _mixtral(experts: int, top_k: int) -> Any:
    config = MixtralConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        router_aux_loss_coef=ALPHA,
        **_NO_STOP,
    )
    return MixtralForCausalLM(config)


def _jetmoe(experts: int, top_k: int) -> Any:
    config = JetMoeConfig(
        vocab_size=256,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_key_value_heads=HEADS,
        kv_channels=WIDTH // HEADS,
        num_local_experts=experts,
        num_experts_per_tok=top_k,
        aux_loss_coef=ALPHA,
        **_NO_STOP,
    )
    return JetMoeForCausalLM(config)


def _switch(experts: int, top_k: int) -> Any:
    del top_k  # the family is top-1
    config = SwitchTransformersConfig(
        vocab_size=256,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=WIDTH,
        num_layers=2 * LAYERS,
        num_decoder_layers=2 * LAYERS,
        num_sparse_encoder_layers=LAYERS,
        num_sparse_decoder_layers=LAYERS,
        num_heads=HEADS,
        num_experts=experts,
        expert_capacity=64,
        router_aux_loss_coef=ALPHA,
        pad_token_id=0,
        eos_token_id=0,
    )
    settings: Any = config
    settings.decoder_start_token_id = 0
    return SwitchTransformersForConditionalGeneration(config)


BUILDERS = {"olmoe": _olmoe, "mixtral": _mixtral, "jetmoe": _jetmoe, "switch": _switch}


def train_briefly(
    model: Any, data: torch.Tensor, steps: int, *, batch: int = 8, length: int = 64, seed: int = 0
) -> list[float]:
    """Next byte (an encoder-decoder: the same bytes again), with the family's own balancing loss.

    Args:
        model: from `build`; trained in place.
        data: token ids `[token]`.
        steps: of AdamW at 3e-3.
        batch: windows per step.
        length: tokens per window.
        seed: of the windows.

    Returns:
        The loss of each step, balancing included.
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    losses = []
    for _ in range(steps):
        starts = torch.randint(len(data) - length, (batch,), generator=draw).tolist()
        tokens = torch.stack([data[s : s + length] for s in starts])
        loss = model(input_ids=tokens, labels=tokens, output_router_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    model.eval()
    return losses
