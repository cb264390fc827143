"""SGLang expert distribution dumps: `expert_distribution_recorder_<time>.pt`, loads only.

Mode `stat` holds `logical_count [forward pass, layer, expert]`; mode `per_token` holds records with
`topk_ids_of_layer [layer, token, slot]` (-1 where nothing was recorded) of physical experts and the
map from physical to logical ones. Layers without counts are dense and left out.
"""

from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from mfgjax.trace.readers.loads import MOST, LoadRecord, count_choices
from mfgjax.trace.readers.torch_archive import read_torch_archive
from mfgjax.trace.schema import TraceError


def read_sglang(path: str | Path, *, top_k: int | None = None) -> LoadRecord:
    """Read one dump.

    The text axis counts forward passes (mode `stat`), or sequences where a pass says how its
    tokens divide into sequences (mode `per_token`).

    Args:
        path: the `.pt` file; read without torch and without running its pickle.
        top_k: K, needed in mode `stat`: counts alone do not tell how many tokens there were.

    Raises:
        TraceError: neither kind of dump, no counts, a top_k that does not divide them.
    """
    content = read_torch_archive(Path(path))
    if isinstance(content, dict) and isinstance(content.get("logical_count"), np.ndarray):
        return _from_counts(content["logical_count"], top_k, str(path))
    if isinstance(content, dict) and isinstance(content.get("records"), list):
        return _from_tokens(content, str(path))
    raise TraceError(f"{path}: neither logical_count nor records in it: not such a dump")


def _integers(value: Any, dimensions: int) -> TypeGuard[np.ndarray]:
    array = isinstance(value, np.ndarray) and value.ndim == dimensions
    return array and value.dtype.kind in "iu"


def _from_counts(count: np.ndarray, top_k: int | None, source: str) -> LoadRecord:
    if count.ndim != 3 or count.dtype.kind not in "iu" or 0 in count.shape:
        raise TraceError(f"{source}: logical_count is not [pass, layer, expert] counts")
    if count.min() < 0 or count.max() > MOST:
        raise TraceError(f"{source}: logical_count has {count.min()} to {count.max()}: no counts")
    if top_k is None:
        raise TraceError(f"{source}: counts do not tell the number of tokens: pass top_k=K")
    if not 1 <= top_k <= count.shape[2]:
        raise TraceError(f"{source}: top_k is {top_k}, with {count.shape[2]} experts")
    passes = np.flatnonzero(count.any(axis=(1, 2)))  # the ring buffer is zero where unused
    layers = np.flatnonzero(count.any(axis=(0, 2)))
    if not len(passes):
        raise TraceError(f"{source}: all counts are zero: was recording started?")
    used = count[np.ix_(passes, layers)].astype(np.int64)
    slots = used.sum(-1)
    if (slots != slots[:, :1]).any() or (slots % top_k).any():
        raise TraceError(
            f"{source}: layers count {sorted(set(slots[0].tolist()))[:4]} choices in one pass, which is "
            f"not one multiple of top_k = {top_k}: another top_k, or ranks that did not report"
        )
    names = tuple(f"layers.{i}" for i in layers)
    return LoadRecord(source, "forward pass", names, top_k, slots[:, 0] // top_k, used)


def _from_tokens(content: dict, source: str) -> LoadRecord:
    mapping = content.get("last_physical_to_logical_map")
    if not _integers(mapping, 2) or not mapping.size:
        raise TraceError(f"{source}: last_physical_to_logical_map is missing")
    if mapping.min() < 0 or mapping.max() >= mapping.shape[1]:
        raise TraceError(
            f"{source}: last_physical_to_logical_map names experts {mapping.min()} to {mapping.max()}; "
            f"{mapping.shape[1]} physical experts stand for at most as many logical ones"
        )
    texts: list[np.ndarray] = []
    kept: tuple | None = None
    for number, record in enumerate(content["records"]):
        where = f"{source}: record {number}"
        ids = record.get("topk_ids_of_layer") if isinstance(record, dict) else None
        if not _integers(ids, 3) or ids.shape[0] != len(mapping):
            raise TraceError(f"{where}: topk_ids_of_layer is not [layer, token, slot]")
        used = ids >= 0
        layers = tuple(np.flatnonzero(used.any(axis=(1, 2))).tolist())
        slots = tuple(np.flatnonzero(used.any(axis=(0, 1))).tolist())
        if not layers:
            continue
        if kept not in (None, (layers, slots)):
            raise TraceError(f"{where}: layers or top_k differ from earlier records")
        kept = (layers, slots)
        chosen = ids[np.ix_(layers, range(ids.shape[1]), slots)]
        if (chosen < 0).any() or chosen.max() >= mapping.shape[1]:
            raise TraceError(
                f"{where}: tokens without a choice, or physical experts unknown to the map"
            )
        rows = np.arange(len(layers))[:, None, None]
        logical = mapping[list(layers)][rows, chosen].transpose(1, 0, 2)
        texts += np.split(logical, _ends(record, len(logical), where))
    if kept is None:
        raise TraceError(f"{source}: no choices recorded")
    count, dispatch = count_choices(texts, int(mapping.max()) + 1, source)
    names = tuple(f"layers.{i}" for i in kept[0])
    return LoadRecord(source, "sequence", names, len(kept[1]), count, dispatch)


def _ends(record: Any, tokens: int, where: str) -> list[int]:
    """Where sequences end within a pass, the last end left out; none for decoding passes."""
    lengths = record.get("extend_seq_lens")
    if not lengths:
        return []
    sound = isinstance(lengths, list) and all(isinstance(n, int) and n > 0 for n in lengths)
    if not sound or sum(lengths) != tokens:
        raise TraceError(f"{where}: extend_seq_lens do not add up to its {tokens} tokens")
    return np.cumsum(lengths)[:-1].tolist()
