"""Small random OLMoEs to sweep over, their serial traces, and how files are compared."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mfgjax_extract.revisions import Revision, list_revisions
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings

TEXTS = ["the router sends a token to the experts it scores highest " * 2] * 4


@dataclass(frozen=True)
class Serial:
    """A serial sweep over all checkpoints.

    Attributes:
        models: folder of the checkpoints.
        out: folder of the traces.
        files: content of each trace by name.
        seconds: wall time of one checkpoint, with torch loaded before.
    """

    models: Path
    out: Path
    files: dict[str, bytes]
    seconds: float

    @property
    def revisions(self) -> list[Revision]:
        return list_revisions(str(self.models), [])


def serial_sweep(scratch: Path, count: int) -> Serial:
    """Save `count` checkpoints and extract them one after the other."""
    models = scratch / "models"
    save_checkpoints(models, count)
    revisions = list_revisions(str(models), [])
    settings = SweepSettings("tiny", scratch / "serial")
    sweep(revisions[:1], TEXTS, settings, Reporter())  # torch is loaded
    begun = time.perf_counter()
    sweep(revisions, TEXTS, replace(settings, overwrite=True), Reporter())
    return Serial(
        models, settings.out, contents(settings.out), (time.perf_counter() - begun) / count
    )


def save_checkpoints(folder: Path, count: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(1)
    letters = {"[PAD]": 0, " ": 1, **{chr(ord("a") + i): i + 2 for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(letters, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    config = OlmoeConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=16,
        num_experts_per_tok=4,
        pad_token_id=0,
        eos_token_id=None,
    )
    for seed in range(count):
        torch.manual_seed(seed)
        model: Any = OlmoeForCausalLM(config)
        model.save_pretrained(folder / f"step{seed}")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]").save_pretrained(
            folder / f"step{seed}"
        )


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each file of the folder by name."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def traces(folder: Path) -> dict[str, bytes]:
    """Content of each file with a trace's name."""
    return {n: c for n, c in contents(folder).items() if n.endswith(".safetensors")}


def different(found: dict[str, bytes], wanted: dict[str, bytes]) -> int:
    """Files that only one has, or that are not the same in both."""
    return sum(found.get(name) != wanted.get(name) for name in found.keys() | wanted.keys())
