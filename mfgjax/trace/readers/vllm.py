"""Routed experts returned by vLLM (`--enable-return-routed-experts`): choices, no logits.

Two layouts: JSON responses whose `prompt_routed_experts` and `choices[i].routed_experts` are nested
lists (0.21) or base64 of a `.npy` file (later), one response, a list, or one per line; and a bare
`.npy` array. All are `[token, layer, top_k]` expert indices.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.trace.readers.loads import LoadRecord, count_choices
from mfgjax.trace.readers.untrusted import (
    index_array,
    json_lines,
    parse_npy,
    read_json,
    regular_file,
)
from mfgjax.trace.schema import TraceError


def read_vllm(path: str | Path, *, experts: int) -> LoadRecord:
    """Read routed experts.

    One text per completion; the prompt's tokens belong to the first completion of its response.

    Args:
        path: `.npy`, `.json` or `.jsonl` file.
        experts: M; indices alone do not tell.

    Raises:
        TraceError: nothing routed in it, mixed shapes, indices out of range, pickled arrays.
    """
    path = Path(path)
    if path.suffix == ".npy":
        texts = [_checked(parse_npy(regular_file(path).read_bytes(), str(path)), str(path))]
    elif path.suffix == ".jsonl":
        texts = [t for n, r in json_lines(path) for t in _completions(r, f"{path}:{n}")]
    else:
        content = read_json(path)
        responses = content if isinstance(content, list) else [content]
        texts = [
            t for i, r in enumerate(responses) for t in _completions(r, f"{path}: response {i}")
        ]
    if not texts:
        raise TraceError(
            f"{path}: no routed_experts in it: start vLLM with --enable-return-routed-experts"
        )
    if len({t.shape[1:] for t in texts}) > 1:
        raise TraceError(f"{path}: numbers of layers or top_k differ between completions")
    count, dispatch = count_choices(texts, experts, str(path))
    names = tuple(f"moe_layer.{i}" for i in range(texts[0].shape[1]))
    return LoadRecord(str(path), "text", names, texts[0].shape[2], count, dispatch)


def _completions(response: Any, where: str) -> list[np.ndarray]:
    if not isinstance(response, dict):
        raise TraceError(f"{where}: a response object expected, found {type(response).__name__}")
    prompt = response.get("prompt_routed_experts")
    choices = response.get("choices", [response])
    if not isinstance(choices, list):
        raise TraceError(f"{where}: 'choices' is not a list")
    texts = []
    for i, choice in enumerate(choices):
        generated = choice.get("routed_experts") if isinstance(choice, dict) else None
        parts = [p for p in ((prompt if i == 0 else None), generated) if p is not None]
        arrays = [_decode(part, f"{where}, choice {i}") for part in parts]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise TraceError(f"{where}, choice {i}: layers or top_k differ from its prompt's")
        if arrays:
            texts.append(np.concatenate(arrays))
    return texts


def _decode(value: Any, where: str) -> np.ndarray:
    if not isinstance(value, str):
        return index_array(value, 3, where)
    try:
        content = base64.b64decode(value, validate=True)
    except binascii.Error as error:
        raise TraceError(f"{where}: routed_experts is not base64 ({error})") from None
    return _checked(parse_npy(content, where), where)


def _checked(array: np.ndarray, where: str) -> np.ndarray:
    if array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape:
        raise TraceError(
            f"{where}: [token, layer, top_k] integers expected, found {array.shape} {array.dtype}"
        )
    return array.astype(np.int64)
