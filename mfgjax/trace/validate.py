"""Is this trace what it says it is? Checks on host arrays, each failure a `TraceError`."""

from collections.abc import Mapping

import numpy as np

from mfgjax.trace.schema import TraceError, TraceMetadata

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
}
_SUM_RTOL = 1e-3
"""Slack for sums of probabilities: float32 accumulation over at most millions of tokens."""


def check_tensors(tensors: Mapping[str, np.ndarray], metadata: TraceMetadata, source: str) -> None:
    """Raise `TraceError` unless `tensors` is a sound trace of `metadata.kind`."""
    required = _TOKENS if metadata.kind == "tokens" else _STATISTICS
    missing = sorted(set(required) - set(tensors))
    if missing:
        raise TraceError(f"{source}: tensor {missing[0]!r} is missing. Extract the trace again.")
    known = required | _OPTIONAL
    _check_shapes({n: t for n, t in tensors.items() if n in known}, known, metadata, source)
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            where = tuple(int(i) for i in np.argwhere(~np.isfinite(tensor))[0])
            raise TraceError(
                f"{source}: tensor {name!r} holds {tensor[where]} at {where}. The model produced a "
                "non-finite logit there, or the file is damaged: check the checkpoint and extract again."
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
    elif tensors["logits"].ndim:
        sizes["token"] = tensors["logits"].shape[0]
    for name, tensor in tensors.items():
        axes, dtypes = known[name]
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


def _check_tokens(tensors, metadata: TraceMetadata, source: str) -> None:
    logits, choices, text = tensors["logits"], tensors["choices"], tensors["text"]
    if logits.shape[0] == 0:
        raise TraceError(f"{source}: the trace has no tokens. Were all texts empty?")
    if (choices.astype(np.int64) >= metadata.experts).any() or (choices.astype(np.int64) < 0).any():
        raise TraceError(
            f"{source}: tensor 'choices' names expert {int(choices.max())} of "
            f"{metadata.experts} (0 to {metadata.experts - 1})."
        )
    if (np.diff(text) < 0).any() or text.min() < 0 or text.max() >= metadata.text_count:
        raise TraceError(
            f"{source}: tensor 'text' must be non-decreasing within 0 to {metadata.text_count - 1}."
        )
    looks = logits[:4096].astype(np.float32)
    if (looks >= 0).all() and np.allclose(looks.sum(-1), 1, atol=2e-2) and metadata.experts > 1:
        raise TraceError(_probabilities(source, "logits"))


def _check_statistics(tensors, metadata: TraceMetadata, source: str) -> None:
    count = tensors["token_count"]
    if (count < 0).any() or count.sum() == 0:
        raise TraceError(f"{source}: tensor 'token_count' must be non-negative with some tokens.")
    for name in ("dispatch_count", "probability_sum", "centred_square_sum"):
        if (tensors[name] < 0).any():
            raise TraceError(f"{source}: tensor {name!r} has negative entries.")
    chosen = tensors["dispatch_count"].sum(-1, dtype=np.int64)
    if (chosen != (count.astype(np.int64) * metadata.top_k)[:, None]).any():
        text, layer = np.argwhere(chosen != (count.astype(np.int64) * metadata.top_k)[:, None])[0]
        raise TraceError(
            f"{source}: tensor 'dispatch_count' has {chosen[text, layer]} choices for text {text}, "
            f"layer {layer}: {count[text]} tokens x top_k {metadata.top_k} expected."
        )
    total = tensors["probability_sum"].sum(-1, dtype=np.float64)
    if not np.allclose(total, count[:, None], rtol=_SUM_RTOL, atol=1e-3):
        raise TraceError(f"{source}: tensor 'probability_sum' does not sum to one per token.")
    logit_total = tensors["logit_sum"].sum(-1, dtype=np.float64)
    one_per_token = np.allclose(logit_total, count[:, None], rtol=_SUM_RTOL, atol=1e-3)
    if one_per_token and (tensors["logit_sum"] >= 0).all() and metadata.experts > 1:
        raise TraceError(_probabilities(source, "logit_sum"))


def _probabilities(source: str, name: str) -> str:
    return (
        f"{source}: tensor {name!r} holds probabilities (non-negative, summing to 1), not raw router "
        "logits. transformers 5.0 to 5.5 return softmaxed router_logits: capture the router's linear "
        "output, as mfgjax-extract does."
    )
