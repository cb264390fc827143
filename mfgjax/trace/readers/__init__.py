"""Traces and loads from other tools' dumps. No torch, no unpickling of arbitrary objects."""

from mfgjax.trace.readers.loads import LoadRecord
from mfgjax.trace.readers.megatron import read_megatron
from mfgjax.trace.readers.moelens import read_moelens_domains, read_moelens_prompts
from mfgjax.trace.readers.sglang import read_sglang
from mfgjax.trace.readers.vllm import read_vllm

__all__ = [
    "LoadRecord",
    "read_megatron",
    "read_moelens_domains",
    "read_moelens_prompts",
    "read_sglang",
    "read_vllm",
]
