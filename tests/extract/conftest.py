"""A tiny OLMoE and its byte tokenizer, saved as a folder of checkpoints."""

import json
import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

torch.set_num_threads(1)  # tiny models: a second thread only waits, and xdist runs two workers

TEXTS = ["the router", "sends a token to the experts it scores highest", "a b c", "load " * 5]


@pytest.fixture(scope="session")
def olmoe_config():
    return OlmoeConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=8,
        num_experts_per_tok=3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        router_aux_loss_coef=0.02,
    )


def letter_tokenizer():
    vocabulary = {"[PAD]": 0, " ": 1, **{chr(ord("a") + i): i + 2 for i in range(26)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, olmoe_config):
    """Two checkpoints, `step0-tokens0` and `step80-tokens81920`."""
    folder = tmp_path_factory.mktemp("run")
    for seed, name in enumerate(["step0-tokens0", "step80-tokens81920"]):
        torch.manual_seed(seed)
        OlmoeForCausalLM(olmoe_config).save_pretrained(folder / name)
        letter_tokenizer().save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def texts_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("\n".join(json.dumps({"text": t}) for t in TEXTS))
    return path


@pytest.fixture(scope="session")
def importable():
    """What nodes import, they find as this process does; `faulty_tasks` and `jobs` included."""
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    folders = [str(here), str(root), str(root / "extract")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")]))
        patch.syspath_prepend(folders[0])
        # Ray's workers are nice to all else: beside other tests they would wait for minutes.
        patch.setenv("RAY_worker_niceness", "0")
        yield
