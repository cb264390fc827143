"""Dumps of other tools become traces, or say what they are good for without router logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from mfgjax.estimate.inference.interval import jackknife_interval
from mfgjax.estimate.inference.weights import leave_one_out_weights
from mfgjax.metrics.per_layer import measure_balance
from mfgjax.trace import TokenTrace, TraceError, write_trace
from mfgjax.trace.readers.loads import LoadRecord
from mfgjax.trace.readers.megatron import read_megatron
from mfgjax.trace.readers.moelens import read_moelens_domains, read_moelens_prompts
from mfgjax.trace.readers.sglang import read_sglang
from mfgjax.trace.readers.vllm import read_vllm

Tool = Literal["moelens", "megatron", "vllm", "sglang"]
_SETTINGS = {
    "moelens": ("model", "revision"),
    "megatron": ("model", "revision", "experts", "first_step", "last_step"),
    "vllm": ("experts",),
    "sglang": ("top_k",),
}
"""What each tool's dump does not say, or leaves open."""


def read_dump(tool: Tool, source: str | Path, **settings: Any) -> TokenTrace | LoadRecord:
    """Read another tool's dump with its reader in `mfgjax.trace.readers`.

    Args:
        tool: which one wrote it.
        source: the file or folder that it wrote.
        settings: what the dump does not say, None for what is not known: `experts` (vLLM, Megatron
            without logits), `top_k` (SGLang counts), `model` and `revision` (MoELens, Megatron),
            `first_step` and `last_step` (Megatron).

    Raises:
        TraceError: see the reader.
        ValueError: an unknown tool, or a setting that its dump does not need.
    """
    if tool not in _SETTINGS:
        raise ValueError(f"tool {tool!r} is not one of {', '.join(_SETTINGS)}")
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in _SETTINGS[tool]:
            raise ValueError(f"--{name.replace('_', '-')} is not for {tool}: its dumps say it")
    path = Path(source)
    if tool == "megatron":
        return read_megatron(path, **given)
    if tool == "sglang":
        return read_sglang(path, **given)
    if tool == "vllm":
        if "experts" not in given:
            raise TraceError(f"{path}: expert indices do not tell their number: give --experts M")
        return read_vllm(path, **given)
    summary = path.is_file() and path.name.endswith("domain_specialization.json")
    read: Callable[..., TokenTrace | LoadRecord]
    read = read_moelens_domains if summary else read_moelens_prompts
    if summary and given:
        raise ValueError("--model and --revision are not for a summary of domains")
    return read(path, **given)


def import_dump(
    tool: Tool, source: str | Path, folder: str | Path, **settings: Any
) -> Path | LoadRecord:
    """Write the trace of a dump into `folder`; without router logits, return its loads.

    Args:
        tool: as in `read_dump`.
        source: as in `read_dump`.
        folder: where to.
        settings: as in `read_dump`.

    Returns:
        The trace file, or the `LoadRecord` of a dump that has no logits: no trace can be made of it.

    Raises:
        TraceError: see the reader; or a file of that name is there already.
    """
    found = read_dump(tool, source, **settings)
    if isinstance(found, LoadRecord):
        return found
    name = found.metadata.revision.replace("/", "-")
    path = Path(folder) / f"{name}.tokens.safetensors"
    if path.exists():
        raise TraceError(f"{path}: is there already. Give another --revision, or delete it.")
    write_trace(path, found)
    return path


def load_table(record: LoadRecord, confidence: float = 0.95) -> pd.DataFrame:
    """What loads alone tell, per layer: entropy, MaxVio, expert shares; no congestion.

    Intervals are jackknives over the record's units; NaN with fewer than three.

    Args:
        record: of a dump without logits.
        confidence: of each interval, in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, a number between 0 and 1 (0.95)")
    counts = record.dispatch_count[record.token_count > 0].astype(float)
    found = measure_balance(counts.sum(0))
    columns: dict[str, Any] = {"layer": record.layers}
    weights = np.asarray(leave_one_out_weights(len(counts)), float)
    without = measure_balance(np.tensordot(weights, counts, 1)) if len(counts) > 2 else None
    for name in ("entropy", "max_violation"):
        estimate = np.asarray(getattr(found, name))
        low = high = np.full(len(estimate), np.nan)
        if without is not None:
            low, high = jackknife_interval(estimate, getattr(without, name), confidence)
            if name == "max_violation":  # a maximum: correcting its bias at a kink does harm
                low, high = (end + estimate - (low + high) / 2 for end in (low, high))
        low, high = np.clip([low, high], 0, 1 if name == "entropy" else None)
        columns |= {name: estimate, f"{name}_low": low, f"{name}_high": high}
    share = record.load
    columns["largest_load"] = share.max(-1)
    columns["dead_experts"] = (share == 0).sum(-1)
    return pd.DataFrame(columns)
