"""Is this trace what it says it is? Checks on host arrays, each failure a `TraceError`.

Traces are large: a check reads a tensor once, in blocks where it needs memory of its own.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from mfgjax.trace.schema import KINDS, STREAMS, TraceError, TraceMetadata

_TOKENS = {
    "logits": (("token", "layer", "expert"), ("float16", "float32")),
    "choices": (("token", "layer", "top_k"), ("uint8", "uint16", "int32")),
    "text": (("token",), ("int32",)),
}
_STATISTICS = {
    "token_count": (("text",), ("int32",)),
    "logit_sum": (("text", "layer", "expert"), ("float32",)),
    "centred_square_sum": (("text", "layer", "expert"), ("float32",)),
    "dispatch_count": (("text", "layer", "expert"), ("int32",)),
    "probability_sum": (("text", "layer", "expert"), ("float32",)),
}
_OPTIONAL = {
    "selection_bias": (("layer", "expert"), ("float32",)),
    "dispatched": (("token", "layer", "top_k"), ("uint8",)),
    "dispatched_count": (("text", "layer", "expert"), ("int32",)),
    "choice_bound": (("block", "layer", "expert", "expert"), ("float32",)),
}
_SUM_RTOL = 1e-3
"""Slack for sums of probabilities: float32 accumulation over at most millions of tokens."""
_MOST = 2**31 - 1
"""Counts and text numbers are int32."""
_BLOCK = 2**22
"""Elements checked at a time."""


def check_metadata(metadata: TraceMetadata, source: str) -> None:
    """Raise `TraceError` unless every field is of its type and they agree with each other."""

    def refuse(name: str, expected: str):
        value = getattr(metadata, name)
        raise TraceError(
            f"{source}: metadata field {name} is {value!r}, {expected} was expected. Extract it again."
        )

    for name in ("experts", "top_k", "text_count"):
        if not _is_count(getattr(metadata, name), 1, _MOST):
            refuse(name, "a count")
    for name in ("step", "tokens_seen"):
        if getattr(metadata, name) is not None and not _is_count(
            getattr(metadata, name), 0, 2**63 - 1
        ):
            refuse(name, "a count or null")
    for name in ("model", "revision", "texts_hash", "scoring", "dtype"):
        if not _is_name(getattr(metadata, name)):
            refuse(name, "printable text")
    if metadata.tokenizer_hash is not None and not _is_name(metadata.tokenizer_hash):
        refuse("tokenizer_hash", "printable text or null")
    if metadata.aux_loss_coef is not None and not _is_finite(metadata.aux_loss_coef):
        refuse("aux_loss_coef", "a finite number or null")
    for name in ("versions", "routing"):
        if not isinstance(getattr(metadata, name), dict):
            refuse(name, "an object")
    if metadata.kind not in KINDS:
        raise TraceError(f"{source}: unknown kind {metadata.kind!r}, one of {KINDS} expected.")
    if metadata.stream not in STREAMS:
        raise TraceError(
            f"{source}: unknown stream {metadata.stream!r}, one of {STREAMS} expected."
        )
    if metadata.top_k > metadata.experts:
        raise TraceError(
            f"{source}: top_k {metadata.top_k} exceeds the {metadata.experts} experts."
        )
    if not isinstance(metadata.layers, tuple) or not all(map(_is_name, metadata.layers)):
        refuse("layers", "a list of printable names")
    if not metadata.layers:
        raise TraceError(f"{source}: the metadata names no layers.")
    if len(set(metadata.layers)) < len(metadata.layers):
        raise TraceError(f"{source}: the metadata names a layer twice: {metadata.layers}.")


def _is_count(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_finite(value: object) -> bool:
    # A Python integer may be too large for a float.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _is_name(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()


def check_tensors(tensors: Mapping[str, np.ndarray], metadata: TraceMetadata, source: str) -> None:
    """Raise `TraceError` unless `tensors` is a sound trace of `metadata.kind`."""
    required = _TOKENS if metadata.kind == "tokens" else _STATISTICS
    missing = sorted(set(required) - set(tensors))
    if missing:
        raise TraceError(f"{source}: tensor {missing[0]!r} is missing. Extract the trace again.")
    known = required | _OPTIONAL
    tensors = {name: tensor for name, tensor in tensors.items() if name in known}
    _check_shapes(tensors, known, metadata, source)
    for name, tensor in tensors.items():
        if tensor.dtype.kind != "f":
            continue
        for start, block in _blocks(tensor):
            bad = ~(block < np.inf if name == "choice_bound" else np.isfinite(block))
            if bad.any():
                where = _first(bad, start)
                raise TraceError(
                    f"{source}: tensor {name!r} holds {tensor[where]} at {where}. The model produced a "
                    "non-finite logit there, or the file is damaged: check the checkpoint and extract "
                    "again."
                )
    if metadata.kind == "tokens":
        _check_tokens(tensors, metadata, source)
    else:
        _check_statistics(tensors, metadata, source)


def _check_shapes(tensors, known, metadata: TraceMetadata, source: str) -> None:
    sizes = {
        "layer": len(metadata.layers),
        "expert": metadata.experts,
        "top_k": metadata.top_k,
    }
    if metadata.kind == "statistics":
        sizes["text"] = metadata.text_count
        sizes["block"] = _bound_blocks(tensors, metadata, source)
    elif tensors["logits"].ndim:
        sizes["token"] = tensors["logits"].shape[0]
    for name, tensor in tensors.items():
        axes, dtypes = known[name]
        if not set(axes) <= set(sizes):
            raise TraceError(
                f"{source}: tensor {name!r} does not belong in a trace of kind {metadata.kind}."
            )
        expected = tuple(sizes[axis] for axis in axes)
        if tensor.shape != expected:
            raise TraceError(
                f"{source}: tensor {name!r} has shape {tensor.shape}, its metadata asks for "
                f"{expected} = ({', '.join(axes)}). Extract the trace again."
            )
        if tensor.dtype.name not in dtypes:
            raise TraceError(
                f"{source}: tensor {name!r} is {tensor.dtype.name}, one of {', '.join(dtypes)} expected."
            )


def _bound_blocks(tensors, metadata: TraceMetadata, source: str) -> int:
    shape = tensors["choice_bound"].shape if "choice_bound" in tensors else (1,)
    if not shape or not 1 <= shape[0] <= metadata.text_count:
        raise TraceError(
            f"{source}: tensor 'choice_bound' has shape {shape}: 1 to {metadata.text_count} blocks "
            "of texts were expected. Extract the trace again."
        )
    return shape[0]


def _check_tokens(tensors, metadata: TraceMetadata, source: str) -> None:
    logits, choices, text = tensors["logits"], tensors["choices"], tensors["text"]
    if logits.shape[0] == 0:
        raise TraceError(f"{source}: the trace has no tokens. Were all texts empty?")
    for expert in (int(choices.min()), int(choices.max())):
        if not 0 <= expert < metadata.experts:
            raise TraceError(
                f"{source}: tensor 'choices' names expert {expert} of "
                f"{metadata.experts} (0 to {metadata.experts - 1})."
            )
    check_distinct(choices, f"{source}: tensor 'choices'")
    if (text[1:] < text[:-1]).any() or text[0] < 0 or text[-1] >= metadata.text_count:
        raise TraceError(
            f"{source}: tensor 'text' must be non-decreasing within 0 to {metadata.text_count - 1}."
        )
    if "dispatched" in tensors and tensors["dispatched"].max() > 1:
        where = _first(tensors["dispatched"] > 1, 0)
        raise TraceError(
            f"{source}: tensor 'dispatched' holds {tensors['dispatched'][where]} at {where}: 1 for a "
            "choice within capacity, 0 for one dropped."
        )
    looks = logits[:4096].astype(np.float32)
    if (looks >= 0).all() and np.allclose(looks.sum(-1), 1, atol=2e-2) and metadata.experts > 1:
        raise TraceError(_probabilities(source, "logits"))


def check_distinct(choices: np.ndarray, where: str) -> None:
    """Raise `TraceError` unless each token of `[token, layer, top_k]` takes different experts."""
    for start, block in _blocks(choices):
        ordered = np.sort(block, axis=-1)
        twice = ordered[..., 1:] == ordered[..., :-1]
        if twice.any():
            token, layer, slot = _first(twice, 0)
            raise TraceError(
                f"{where} names expert {ordered[token, layer, slot]} twice for token {start + token}, "
                f"layer {layer}: a token takes {choices.shape[-1]} different experts. Record it again."
            )


def _check_statistics(tensors, metadata: TraceMetadata, source: str) -> None:
    count = tensors["token_count"]
    if (count < 0).any() or not count.any():
        raise TraceError(f"{source}: tensor 'token_count' must be non-negative with some tokens.")
    for name in ("dispatch_count", "probability_sum", "centred_square_sum", "dispatched_count"):
        if name in tensors and tensors[name].min() < 0:
            where = _first(tensors[name] < 0, 0)
            raise TraceError(
                f"{source}: tensor {name!r} has negative entries ({tensors[name][where]} at {where})."
            )
    expected = count.astype(np.int64) * metadata.top_k
    chosen = tensors["dispatch_count"].sum(-1, dtype=np.int64)
    if (chosen != expected[:, None]).any():
        text, layer = _first(chosen != expected[:, None], 0)
        raise TraceError(
            f"{source}: tensor 'dispatch_count' has {chosen[text, layer]} choices for text {text}, "
            f"layer {layer}: {count[text]} tokens x top_k {metadata.top_k} expected."
        )
    limits = [("dispatch_count", count[:, None, None], "the text has tokens")]
    if "dispatched_count" in tensors:
        limits.append(("dispatched_count", tensors["dispatch_count"], "tokens chose it"))
    for name, limit, meaning in limits:
        more = tensors[name] > limit
        if more.any():
            text, layer, expert = _first(more, 0)
            raise TraceError(
                f"{source}: tensor {name!r} has {tensors[name][text, layer, expert]} for text {text}, layer "
                f"{layer}, expert {expert}, more than {meaning} "
                f"({np.broadcast_to(limit, more.shape)[text, layer, expert]}). Extract the trace again."
            )
    for name in ("logit_sum", "centred_square_sum"):
        if tensors[name][count == 0].any():
            raise TraceError(f"{source}: tensor {name!r} has sums for a text without tokens.")
    total = tensors["probability_sum"].sum(-1, dtype=np.float64)
    if not np.allclose(total, count[:, None], rtol=_SUM_RTOL, atol=1e-3):
        raise TraceError(f"{source}: tensor 'probability_sum' does not sum to one per token.")
    logit_total = tensors["logit_sum"].sum(-1, dtype=np.float64)
    one_per_token = np.allclose(logit_total, count[:, None], rtol=_SUM_RTOL, atol=1e-3)
    if one_per_token and (tensors["logit_sum"] >= 0).all() and metadata.experts > 1:
        raise TraceError(_probabilities(source, "logit_sum"))


def _blocks(tensor: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """`(first row, rows)` of a tensor, a few megabytes at a time."""
    rows = max(1, _BLOCK // max(1, math.prod(tensor.shape[1:])))
    for start in range(0, len(tensor), rows):
        yield start, tensor[start : start + rows]


def _first(bad: np.ndarray, start: int) -> tuple[int, ...]:
    """Index of the first true entry, the rows counted from `start`."""
    row, *rest = (int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
    return (start + row, *rest)


def _probabilities(source: str, name: str) -> str:
    return (
        f"{source}: tensor {name!r} holds probabilities (non-negative, summing to 1), not raw router "
        "logits. transformers 5.0 to 5.5 return softmaxed router_logits: capture the router's linear "
        "output, as mfgjax-extract does."
    )
