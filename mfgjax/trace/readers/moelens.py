"""MoELens JSON: routing traces of prompts (probabilities per token) and domain summaries (loads).

MoELens stores softmax probabilities rounded to 5 digits, not logits. A softmax loses only a
constant per token, to which choice and best response are blind; rounding loses the rest: a
probability below 5e-6 is stored as 0.
"""

from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.trace.readers.loads import MOST, LoadRecord, check_indices
from mfgjax.trace.readers.untrusted import field, index_array, read_json
from mfgjax.trace.schema import TokenTrace, TraceError, TraceMetadata

ROUNDING = 5e-6
"""Half of the last stored digit: a stored 0 can be anything up to this."""


def read_moelens_prompts(
    path: str | Path, *, model: str = "moelens", revision: str = "main"
) -> TokenTrace:
    """Read `moe_routing_trace.json`, one `prompt-<i>.json`, or a folder of them.

    `logits` are the logs of the stored probabilities, centred per token: raw logits up to the
    token's mean, and to the rounding. A stored 0 becomes `log(ROUNDING)`: where logits spread by
    more than 12, tails are cut, and mean qualities of rarely chosen experts are too high.
    `metadata.routing` says so.

    Raises:
        TraceError: not such a file, prompts that disagree, indices out of range.
    """
    path = Path(path)
    files = sorted(path.glob("prompt-*.json")) if path.is_dir() else [path]
    if not files:
        raise TraceError(f"{path}: no prompt-<i>.json in this folder")
    prompts: list[tuple[Any, str]] = []
    for file in files:
        content = read_json(file)
        listed = content.get("prompts", [content]) if isinstance(content, dict) else [content]
        prompts += [(p, f"{file}: prompt {i}") for i, p in enumerate(listed)]
    read = [_prompt(p, where) for p, where in prompts]
    if not read or len({(p.shape[1:], c.shape[1:]) for p, c in read}) > 1:
        raise TraceError(f"{path}: no prompts, or prompts of different models")
    probability = np.concatenate([p for p, _ in read])
    choices = np.concatenate([c for _, c in read])
    logits = np.log(np.maximum(probability, ROUNDING))
    logits -= logits.mean(-1, keepdims=True)
    dense = set(_dense_layers(prompts[0][0]))
    total = probability.shape[1] + len(dense)
    metadata = TraceMetadata(
        kind="tokens",
        model=model,
        revision=revision,
        experts=probability.shape[-1],
        top_k=choices.shape[-1],
        layers=tuple(f"layers.{i}" for i in range(total) if i not in dense),
        texts_hash=f"moelens:{len(read)} prompts",
        text_count=len(read),
        routing={
            "source": "moelens",
            "logits": "log of probabilities rounded to 5 digits, centred per token",
            "zeros": float((probability == 0).mean()),
        },
    )
    text = np.repeat(np.arange(len(read)), [len(p) for p, _ in read]).astype(np.int32)
    return TokenTrace(metadata, logits.astype(np.float32), choices.astype(np.int32), text)


def _dense_layers(prompt: Any) -> list[int]:
    listed = prompt.get("layers", [])
    return [
        i for i, layer in enumerate(listed) if isinstance(layer, dict) and not layer.get("tokens")
    ]


def _prompt(prompt: Any, where: str) -> tuple[np.ndarray, np.ndarray]:
    """`(probabilities [token, layer, expert], choices [token, layer, top_k])` of one prompt."""
    probabilities, choices = [], []
    for layer in field(prompt, "layers", list, where):
        tokens = layer.get("tokens") if isinstance(layer, dict) else None
        if not tokens:
            continue  # a dense layer
        inside = f"{where}, layer {layer.get('layer')}"
        try:
            probabilities.append(np.array([t["all_probs"] for t in tokens], np.float64))
            chosen = [t["top_experts"] for t in tokens]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise TraceError(f"{inside}: all_probs or top_experts damaged ({error})") from None
        choices.append(index_array(chosen, 2, inside))
    if (
        not probabilities
        or probabilities[0].ndim != 2
        or len({(p.shape, c.shape) for p, c in zip(probabilities, choices, strict=True)}) > 1
    ):
        raise TraceError(f"{where}: no MoE layers, or layers of different shapes")
    values = np.stack(probabilities, axis=1)
    # 5 digits each: the sum of M of them is off by at most M times half the last digit.
    off = np.abs(values.sum(-1) - 1).max()
    if (values < 0).any() or not off <= values.shape[-1] * ROUNDING + 1e-3:
        raise TraceError(f"{where}: all_probs are not probabilities (a sum is off by {off:.2g})")
    chosen = np.stack(choices, axis=1)
    check_indices(chosen, values.shape[-1], where)
    return values, chosen


def read_moelens_domains(path: str | Path) -> LoadRecord:
    """Read `*domain_specialization.json`: loads and mean probabilities per domain.

    The text axis counts domains: six are few to resample over.

    Raises:
        TraceError: not such a file, or rates that are not rates.
    """
    content = read_json(Path(path))
    where = str(path)
    domains = field(content, "domains", list, where)
    counts = field(content, "token_counts", dict, where)
    top_k = field(content, "top_k_experts", int, where)
    if not domains or not all(isinstance(domain, str) for domain in domains):
        raise TraceError(f"{where}: domains is not a list of names")
    listed = [field(counts, domain, int, f"{where}: token_counts") for domain in domains]
    if not 0 <= min(listed) <= max(listed) <= MOST:
        raise TraceError(f"{where}: token_counts of {min(listed)} to {max(listed)} are no counts")
    tokens = np.array(listed, np.int64)
    rate, probability = (
        _table(field(content, name, dict, where), domains, f"{where}: {name}")
        for name in ("activation_rate", "avg_prob")
    )
    if rate.shape != probability.shape:
        raise TraceError(f"{where}: activation_rate and avg_prob have different shapes")
    layers = np.flatnonzero(rate.any(axis=(0, 2)))
    # A token takes top_k experts, so that a layer's rates add up to it but for their rounding.
    off = np.abs(rate[:, layers].sum(-1) - top_k)[tokens > 0].max(initial=0)
    if not off <= rate.shape[-1] * ROUNDING + 1e-3:
        raise TraceError(
            f"{where}: top_k_experts is {top_k}, but a layer's activation_rate sums to something else "
            f"(off by {off:.2g})"
        )
    dispatch = np.rint(rate[:, layers] * tokens[:, None, None]).astype(np.int64)
    return LoadRecord(
        where,
        "domain",
        tuple(f"layers.{i}" for i in layers),
        top_k,
        tokens,
        dispatch,
        probability[:, layers] * tokens[:, None, None],
    )


def _table(by_domain: dict, domains: list, where: str) -> np.ndarray:
    try:
        table = np.array([by_domain[d] for d in domains], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise TraceError(f"{where}: not [layer][expert] for every domain ({error})") from None
    if table.ndim != 3 or not ((table >= 0) & (table <= 1)).all():
        raise TraceError(f"{where}: not [domain][layer][expert] fractions")
    return table
