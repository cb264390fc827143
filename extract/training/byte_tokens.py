"""Tokens that are bytes, with a tokenizer as a hub model has one."""

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_symbols() -> list[str]:
    """The character that byte-level tokenizers write for each of the 256 bytes.

    Printable bytes stand for themselves, the others for the characters from U+0100 on.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, token id = byte, in the format `AutoTokenizer` loads."""
    vocabulary = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=byte_symbols()[0])


def encode(content: bytes) -> torch.Tensor:
    """Token ids of a byte string: what `byte_tokenizer` gives, without its minutes."""
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).astype(np.int64))
