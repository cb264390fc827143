"""Megatron-core routing traces: `router_trace_rank<r>.jsonl` and `logits_rank<r>.bin`.

Written by `--moe-routing-trace-path`, one line per (step, block, layer) with the chosen experts;
with logit capture on, the line also says where in the sidecar its bfloat16 logits lie. The
logits are the gating output before bias and scoring, computed once more by the tracer.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.trace.readers.loads import LoadRecord, check_indices, count_choices
from mfgjax.trace.readers.untrusted import field, index_array, json_lines, regular_file
from mfgjax.trace.schema import TokenTrace, TraceError, TraceMetadata

_NAME = re.compile(r"router_trace_rank(\d+)\.jsonl$")
_Unit = tuple[int, int]
"""(rank, step): one text axis entry, the tokens that a rank routed in a step."""


def read_megatron(
    folder: str | Path,
    *,
    experts: int | None = None,
    model: str = "megatron",
    revision: str | None = None,
    first_step: int = 0,
    last_step: int | None = None,
    block: str = "decoder",
) -> TokenTrace | LoadRecord:
    """Read the traces of all ranks in a folder.

    The text axis counts (rank, step): resampling is over them. Records of one step and layer
    (micro-batches) are put together in order.

    Args:
        folder: the folder given to `--moe-routing-trace-path`.
        experts: M. Needed only when no logits were captured: indices alone do not tell.
        model: name to store.
        revision: checkpoint name to store; None for `step<n>`, n the last step read.
        first_step: first step to read.
        last_step: last step to read; None for all. Pick a range in which the router hardly moves.
        block: "decoder" or "mtp".

    Returns:
        A `TokenTrace` when every record has logits, else a `LoadRecord`.

    Raises:
        TraceError: no trace, damaged records, layers that disagree, indices out of range.
    """
    folder = Path(folder)
    files = sorted(p for p in folder.glob("router_trace_rank*.jsonl") if _NAME.search(p.name))
    if not files:
        raise TraceError(f"{folder}: no router_trace_rank<r>.jsonl in this folder")
    choices: dict[_Unit, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    logits: dict[_Unit, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    records = with_logits = 0
    for path in files:
        match = _NAME.search(path.name)
        assert match is not None
        rank = int(match[1])
        sidecar = folder / f"logits_rank{rank}.bin"  # from the file name, never from a record
        for number, record in json_lines(path):
            where = f"{path}:{number}"
            step, layer = field(record, "step", int, where), field(record, "layer", int, where)
            too_late = last_step is not None and step > last_step
            if record.get("block", "decoder") != block or step < first_step or too_late:
                continue
            chosen = index_array(field(record, "top_indices", list, where), 2, where)
            if chosen.shape != (record.get("num_tokens"), record.get("topk")):
                raise TraceError(f"{where}: {chosen.shape} indices, its num_tokens x topk differ")
            choices[rank, step][layer].append(chosen)
            records += 1
            if "logit_offset" in record:
                with_logits += 1
                logits[rank, step][layer].append(_logits(record, sidecar, where, len(chosen)))
    if not records:
        raise TraceError(f"{folder}: no {block} records in steps {first_step} to {last_step}")
    units = sorted(choices)
    layers = sorted(choices[units[0]])
    texts = [_stack(choices[u], layers, f"{folder}: rank {u[0]}, step {u[1]}") for u in units]
    if len({t.shape[2] for t in texts}) > 1:
        raise TraceError(f"{folder}: top_k differs between steps")
    names = tuple(f"{block}.layers.{layer}.mlp.router" for layer in layers)
    if with_logits < records:
        if experts is None:
            raise TraceError(
                f"{folder}: {records - with_logits} of {records} records have no logits, and the "
                "number of experts is not in the dump: pass experts=M"
            )
        count, dispatch = count_choices(texts, experts, str(folder))
        return LoadRecord(str(folder), "(rank, step)", names, texts[0].shape[2], count, dispatch)
    step = max(step for _, step in units)  # its place in training, which orders a trajectory
    values = [_stack(logits[u], layers, f"{folder}: rank {u[0]}, step {u[1]}") for u in units]
    return _token_trace(values, texts, names, str(folder), model, revision, step)


def _token_trace(
    logits: list[np.ndarray],
    choices: list[np.ndarray],
    layers: tuple[str, ...],
    source: str,
    model: str,
    revision: str | None,
    step: int,
) -> TokenTrace:
    experts = logits[0].shape[-1]
    if any(z.shape[-1] != experts for z in logits):
        raise TraceError(f"{source}: the number of experts differs between records")
    together = np.concatenate(choices)
    check_indices(together, experts, source)
    metadata = TraceMetadata(
        kind="tokens",
        model=model,
        revision=revision or f"step{step}",
        step=step,
        experts=experts,
        top_k=together.shape[-1],
        layers=layers,
        texts_hash=f"megatron:{len(choices)} steps",
        text_count=len(choices),
        scoring="unknown",
        dtype="bfloat16",
        routing={"source": "megatron router trace", "text_axis": "(rank, step)"},
    )
    text = np.repeat(np.arange(len(choices)), [len(c) for c in choices])
    return TokenTrace(
        metadata, np.concatenate(logits), together.astype(np.int32), text.astype(np.int32)
    )


def _stack(by_layer: dict[int, list[np.ndarray]], layers: list[int], where: str) -> np.ndarray:
    """`[token, layer, ...]` of one unit; all layers must hold the same number of tokens."""
    if sorted(by_layer) != layers:
        raise TraceError(f"{where}: layers {sorted(by_layer)}, elsewhere {layers}")
    if len({part.shape[1:] for parts in by_layer.values() for part in parts}) > 1:
        raise TraceError(f"{where}: top_k or the number of experts differs between records")
    arrays = [np.concatenate(by_layer[layer]) for layer in layers]
    if len({a.shape for a in arrays}) > 1:
        raise TraceError(f"{where}: layers hold different numbers of tokens")
    return np.stack(arrays, axis=1)


def _logits(record: Any, sidecar: Path, where: str, tokens: int) -> np.ndarray:
    """One record's logits as float32."""
    offset = field(record, "logit_offset", int, where)
    length = field(record, "logit_bytes", int, where)
    shape = field(record, "logit_shape", list, where)
    sound = len(shape) == 2 and all(isinstance(n, int) and n > 0 for n in shape)
    if not sound or shape[0] != tokens or 2 * shape[0] * shape[1] != length or offset < 0:
        raise TraceError(f"{where}: logit_shape {shape} does not fit its bytes or tokens")
    if offset + length > regular_file(sidecar).stat().st_size:
        raise TraceError(f"{where}: its logits lie beyond the end of {sidecar.name}: truncated")
    half = np.fromfile(sidecar, "<u2", shape[0] * shape[1], offset=offset)
    wide = (half.astype(np.uint32) << 16).view(np.float32)  # bfloat16 is the upper half
    if not np.isfinite(wide).all():
        raise TraceError(f"{where}: non-finite logits in {sidecar.name}")
    return wide.reshape(shape)
