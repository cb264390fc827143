"""A tiny random model of every MoE family of transformers, each from its own configuration.

Sizes are set by field name where the family's configuration has the field; what a family needs
beyond that is in `FAMILIES`. The sizes leave every mechanism on: two expert groups, a random
selection bias, shared experts, a dense first layer where the family has one.
"""

import importlib
import re

import torch
from transformers import CONFIG_MAPPING, AutoModel

EXPERTS = 8
TOP_K = 2
LAYERS = 3
HIDDEN = 16

_SIZES = {
    **dict.fromkeys(["vocab_size", "unpadded_vocab_size", "vocab_size_per_layer_input"], 64),
    **dict.fromkeys(["max_position_embeddings", "max_seq_len"], 64),
    **dict.fromkeys(["hidden_size", "intermediate_size", "d_model", "d_ff"], HIDDEN),
    **dict.fromkeys(["encoder_ffn_dim", "decoder_ffn_dim"], HIDDEN),
    **dict.fromkeys(["num_hidden_layers"], LAYERS),
    **dict.fromkeys(["num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_sparse_encoder_layers", "num_sparse_decoder_layers", "n_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "num_key_value_heads", "num_heads", "n_heads"], 2),
    **dict.fromkeys(["encoder_attention_heads", "decoder_attention_heads", "index_n_heads"], 2),
    **dict.fromkeys(["swa_num_attention_heads", "swa_num_key_value_heads"], 2),
    **dict.fromkeys(["linear_num_key_heads", "linear_num_value_heads", "linear_num_heads"], 2),
    **dict.fromkeys(["mamba_n_heads", "mamba_num_heads", "mamba_dt_rank", "d_rel"], 4),
    **dict.fromkeys(["head_dim", "kv_channels", "d_kv", "swa_head_dim", "index_head_dim"], 8),
    **dict.fromkeys(["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "linear_head_dim"], 8),
    **dict.fromkeys(["kv_lora_rank", "q_lora_rank", "router_hidden_size"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim"], 8),
    **dict.fromkeys(["mamba_d_state", "mamba_d_head", "mamba_head_dim", "ssm_state_size"], 8),
    **dict.fromkeys(["mamba_chunk_size", "chunk_size", "sliding_window", "sliding_window_size"], 8),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 12),
    **dict.fromkeys(["shared_intermediate_size", "shared_experts_intermediate_size"], 12),
    **dict.fromkeys(["moe_shared_expert_intermediate_size", "dense_intermediate_size"], 12),
    **dict.fromkeys(["intermediate_size_mlp", "share_expert_dim", "expert_ffn_hidden_size"], 12),
    **dict.fromkeys(["ffn_hidden_size", "hidden_size_per_layer_input", "moe_hidden_size"], 12),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts"], EXPERTS),
    **dict.fromkeys(["moe_num_experts"], EXPERTS),
    **dict.fromkeys(["num_experts_per_tok", "num_experts_per_token", "moe_k"], TOP_K),
    **dict.fromkeys(["moe_topk", "top_k_experts", "n_group", "num_expert_group", "n_groups"], 2),
    **dict.fromkeys(["n_shared_experts", "num_shared_experts", "moe_num_shared_experts"], 1),
    **dict.fromkeys(["first_k_dense_replace", "num_dense_layers", "topk_group"], 1),
    **dict.fromkeys(["encoder_sparse_step", "decoder_sparse_step", "bos_token_id"], 1),
    **dict.fromkeys(["num_mtp_layers", "num_nextn_predict_layers", "pad_token_id"], 0),
    **dict.fromkeys(["expert_capacity", "index_topk"], 4),
    "eos_token_id": 2,
    "rel_extent": 16,
    "topk_method": "group_limited_greedy",
    "use_mamba_kernels": False,
    "ngram_vocab_size_base": 64,
    "split_ngram_parts": 2,
    "make_ngram_vocab_size_divisible_by": 2,
}

_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 1.0}
_MULTIMODAL_ROPE = {**_PLAIN_ROPE, "mrope_section": [1, 1, 2]}
_YARN = {
    **_PLAIN_ROPE,
    "rope_type": "yarn",
    "factor": 2.0,
    "original_max_position_embeddings": 32,
    "llama_4_scaling_beta": 0.1,
}
_DENSE_FIRST = {"mlp_layer_types": ["dense", "sparse", "sparse"]}

_PLAIN = [
    "afmoe",
    "aria_text",
    "axk1",
    "axk2",
    "bailing_hybrid",
    "cohere2_moe",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "dots1",
    "dots3_note_text",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt_oss",
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
    "hunyuan_v1_moe",
    "hy_v3",
    "hy_v4",
    "inkling2_text",
    "inkling_text",
    "jamba",
    "jetmoe",
    "kimi_linear",
    "kolibri1",
    "laguna",
    "llama4_text",
    "mellum",
    "minimax",
    "minimax_m2",
    "minimax_m3_vl_text",
    "mistral_large4_text",
    "mixtral",
    "muse_spark_text",
    "nemotron_h",
    "nllb-moe",
    "olmoe",
    "openai_privacy_filter",
    "phimoe",
    "qwen2_moe",
    "qwen3_5_moe_text",
    "qwen3_moe",
    "qwen3_next",
    "qwen3_omni_moe_text",
    "qwen3_vl_moe_text",
    "qwen4_exp_text",
    "solar_open",
    "switch_transformers",
    "unlimited_ocr_text",
]

FAMILIES: dict[str, dict] = {
    **{name: {} for name in _PLAIN},
    "beam": _DENSE_FIRST,
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {
            "ffn_hidden_size": HIDDEN,
            "moe_num_experts": EXPERTS,
            "moe_top_k": TOP_K,
            "hidden_size": HIDDEN,
        },
    },
    "deepseek_ocr2_text": _DENSE_FIRST,
    "deepseek_v4": {"mlp_layer_types": ["hash_moe", "moe", "moe"]},
    "diffusion_gemma_text": {},
    "doge": {"is_moe": True, "num_experts": 16},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [12, 12],
        "rope_parameters": {**_MULTIMODAL_ROPE},
    },
    "flint": {"mlp_only_layers": [0]},
    "gemma4_text": {"enable_moe_block": True},
    "glm4v_moe_text": {"rope_parameters": _MULTIMODAL_ROPE},
    "glm5_next_text": {"index_kpool": 2, "qk_rope_head_dim": 0, **_DENSE_FIRST},
    "glm_moe_dsa": _DENSE_FIRST,
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"]},
    "longcat_flash": {"zero_expert_num": 4},
    "mimo_v2_flash": {
        "num_key_value_heads": 1,
        "rope_parameters": {"full_attention": _PLAIN_ROPE, "sliding_attention": _PLAIN_ROPE},
    },
    "mistral4": {"rope_parameters": _YARN},
    "step3p5": {"num_sliding_attention_heads": 2, **_DENSE_FIRST},
    "zaya": {"num_experts_per_tok": 1},
}
"""Every model type with a router in transformers 5.23.0, with what it needs beyond the sizes."""

_NOT_IN_AUTO_MODEL = {
    "deepseek_ocr2_text": ("deepseek_ocr2", "DeepseekOcr2TextModel"),
    "diffusion_gemma_text": ("diffusion_gemma", "DiffusionGemmaEncoderTextModel"),
    "ernie4_5_vl_moe_text": ("ernie4_5_vl_moe", "Ernie4_5_VLMoeTextModel"),
    "qwen3_omni_moe_text": ("qwen3_omni_moe", "Qwen3OmniMoeThinkerTextModel"),
    "step3p5": ("step3p7", "Step3p7TextModel"),
    "unlimited_ocr_text": ("unlimited_ocr", "UnlimitedOcrTextModel"),
}


def tiny_config(family: str, **overrides):
    """The configuration of `family` in the sizes above."""
    config_class = CONFIG_MAPPING[family]
    known = config_class().to_dict()
    settings = {name: value for name, value in _SIZES.items() if name in known}
    return config_class(**(settings | FAMILIES.get(family, {}) | overrides))


def tiny_model(family: str, **overrides) -> torch.nn.Module:
    """A random model of `family` in eval mode, routers and selection biases far from zero."""
    config = tiny_config(family, **overrides)
    torch.manual_seed(0)
    if family in _NOT_IN_AUTO_MODEL:
        package, name = _NOT_IN_AUTO_MODEL[family]
        module = importlib.import_module(f"transformers.models.{package}.modeling_{package}")
        model = getattr(module, name)._from_config(config)
    else:
        model = AutoModel.from_config(config)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if re.search(r"correction_bias|expert_bias|balancing", name):
                tensor.normal_(std=0.3)
            elif re.search(r"tid2eid", name):
                tensor.random_(0, EXPERTS)
            elif tensor.is_floating_point() and tensor.ndim >= 2:
                tensor.normal_(std=0.3)
    return model.eval()


def tiny_inputs(model: torch.nn.Module, pad: int = 2) -> dict[str, torch.Tensor]:
    """Two texts of 6 tokens, the second right-padded by `pad`."""
    ids = torch.randint(3, 60, (2, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 6 - pad :] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    if model.config.is_encoder_decoder:
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    return inputs
