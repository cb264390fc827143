"""Extract one loaded checkpoint: run the texts, write its trace files."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.choice_bound import block_count, raise_bounds
from mfgjax_extract.routers import Router, is_encoder_decoder
from mfgjax_extract.selection import Selection, selection_of
from mfgjax_extract.settings import selection_bias
from mfgjax_extract.statistics import sum_by_text
from mfgjax_extract.sweep_settings import MOST_BLOCKS
from mfgjax_extract.tap import LayerRouting, Routing, tap_routers
from mfgjax_extract.texts import EncodedTexts, batches_of
from mfgjax_extract.trace_file import (
    TraceWriter,
    publish_all,
    statistics_layout,
    tokens_layout,
    trace_path,
)


@dataclass(frozen=True)
class Plan:
    """What to write for one checkpoint.

    Attributes:
        out: folder.
        label: file name stem.
        kinds: "statistics", "tokens" or both.
        metadata: the part of the trace metadata known before the model runs.
        logit_dtype: stored precision of token logits.
        batch_tokens: most rows (padding included) of one forward.
        choice_blocks: most blocks of texts whose choice bounds the statistics form keeps; 0 for none.
    """

    out: Path
    label: str
    kinds: tuple[str, ...]
    metadata: dict
    logit_dtype: type[np.generic] = np.float16
    batch_tokens: int = 4096
    choice_blocks: int = MOST_BLOCKS


def extract_checkpoint(
    model: nn.Module,
    routers: list[Router],
    texts: EncodedTexts,
    plan: Plan,
    on_batch: Callable[[int, int], None] = lambda _texts, _tokens: None,
) -> list[Path]:
    """Run `texts` through `model` and write the files of `plan`, one set per stream.

    Args:
        model: a base model (no LM head needed), in eval mode, on its device.
        routers: the routers to record, from `find_routers`.
        texts: tokenised texts.
        plan: what to write.
        on_batch: called after each batch with the number of texts and tokens in it.

    Returns:
        The files written.

    Raises:
        RoutingError: the routing recorded cannot be right; nothing is left under a final name.
        OSError: the disk is full; as before.
    """
    if texts.token_count == 0:
        raise ValueError("the texts hold no tokens: look at them, and at the tokenizer's files")
    capacity = any(r.has_capacity for r in routers)
    batches = batches_of(texts.ids, plan.batch_tokens, one_by_one=capacity)
    device = next(model.parameters()).device
    with ExitStack() as stack:
        sink = _Sink(stack, routers, texts, plan)
        with tap_routers(model, routers=routers) as tap, torch.inference_mode():
            for batch in batches:
                ids, mask = _pad([texts.ids[i] for i in batch], device)
                run_batch(model, ids, mask)
                if tap.latest is None:
                    raise RoutingError("the model's forward was not seen by the tap")
                sink.add(tap.latest, batch, ids.shape[1])
                on_batch(len(batch), sum(len(texts.ids[i]) for i in batch))
        return sink.publish()


def run_batch(model: nn.Module, ids: Tensor, mask: Tensor) -> None:
    """One forward. An encoder-decoder gets the text in the encoder, and shifted in the decoder."""
    config: Any = model.config
    # An encoder knows no cache.
    cache = {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}
    if is_encoder_decoder(model):
        names = ("decoder_start_token_id", "pad_token_id")
        starts = [v for n in names if (v := getattr(config, n, None)) is not None]
        first = torch.full_like(ids[:, :1], starts[0] if starts else 0)
        shifted = torch.cat([first, ids[:, :-1]], dim=1)
        model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=shifted,
            decoder_attention_mask=mask,
            **cache,
        )
    else:
        model(input_ids=ids, attention_mask=mask, **cache)


def _pad(ids: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-padded ids and mask. Padding on the left would take slots of capacity routers."""
    rows = [torch.tensor(tokens, dtype=torch.int64) for tokens in ids]
    padded = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return padded.to(device), mask.to(device)


class _Sink:
    """Open trace files of all streams and kinds; batches are written where they belong."""

    def __init__(self, stack: ExitStack, routers: list[Router], texts: EncodedTexts, plan: Plan):
        self._stack = stack
        self._texts = texts
        self._plan = plan
        self._streams = {
            name: [i for i, r in enumerate(routers) if r.in_encoder == (name == "encoder")]
            for name in ("decoder", "encoder")
        }
        self._routers = routers
        self._starts = np.cumsum([0, *map(len, texts.ids)])
        self._writers: dict[tuple[str, str], TraceWriter] = {}
        self._shape: dict[str, tuple[int, int]] = {}
        self._selections: dict[str, list[Selection | None]] = {}
        self._bounds: dict[str, np.ndarray] = {}

    def publish(self) -> list[Path]:
        """Give all files their names."""
        for stream, bounds in self._bounds.items():
            self._writers[stream, "statistics"].write("choice_bound", 0, bounds)
        publish_all(self._writers.values())
        return [writer.path for writer in self._writers.values()]

    def add(self, routing: Routing, batch: list[int], length: int) -> None:
        """Write one batch of right-padded texts `batch`, padded to `length`."""
        for stream, members in self._streams.items():
            if not members:
                continue
            layers = [routing.layers[i] for i in members]
            mask = routing.encoder_mask if stream == "encoder" else routing.mask
            assert mask is not None
            rows = torch.nonzero(mask).flatten()
            self._settle_shape(stream, layers, [self._routers[i] for i in members], rows)
            text_in_batch = rows // length
            for kind in self._plan.kinds:
                writer = self._writers[stream, kind]
                if kind == "tokens":
                    self._write_tokens(writer, layers, rows, batch)
                else:
                    _write_sums(writer, layers, rows, text_in_batch, batch)
                    if stream in self._bounds:
                        number = torch.tensor(batch, device=rows.device)[text_in_batch]
                        bounds, rules = self._bounds[stream], self._selections[stream]
                        block = number * len(bounds) // len(self._texts.ids)
                        raise_bounds(bounds, layers, rules, rows, block)

    def _settle_shape(
        self, stream: str, layers: list[LayerRouting], routers: list[Router], rows: Tensor
    ) -> None:
        shapes = {(layer.logits.shape[-1], layer.choices.shape[-1]) for layer in layers}
        known = self._shape.get(stream)
        if len(shapes) > 1 or (known is not None and shapes != {known}):
            seen = ", ".join(
                f"{x.path}: M={x.logits.shape[-1]} K={x.choices.shape[-1]}" for x in layers
            )
            raise RoutingError(
                "numbers of experts or choices differ between layers or batches, and one trace "
                f"holds one M and K: extract them apart with --layers REGEX. {seen}"
            )
        if known is None:
            self._shape[stream] = next(iter(shapes))
            self._open(stream, layers, routers, rows)

    def _open(
        self, stream: str, layers: list[LayerRouting], routers: list[Router], rows: Tensor
    ) -> None:
        experts, top_k = self._shape[stream]
        biases = [selection_bias(r) for r in routers]
        scorings = sorted({x.scoring for x in layers if x.scoring is not None})
        capacity = any(r.has_capacity for r in routers)
        rules = [selection_of(r, x, rows) for r, x in zip(routers, layers, strict=True)]
        self._selections[stream] = rules
        blocks = block_count(
            len(self._texts.ids), len(layers), experts, self._plan.choice_blocks * any(rules)
        )
        metadata = {
            **self._plan.metadata,
            "experts": experts,
            "top_k": top_k,
            "scoring": "+".join(scorings) or "unknown",
            "layers": [x.path for x in layers],
            "stream": stream,
            "routing": {
                **self._plan.metadata.get("routing", {}),
                "router_class": sorted({type(r.module).__name__ for r in routers}),
                "logit_dtype_in_model": str(layers[0].logits.dtype).removeprefix("torch."),
                "selection_bias": any(b is not None for b in biases),
                "capacity": capacity,
                "selection_score": ["unknown" if r is None else r.score for r in rules],
                "selection_unit": [None if r is None else r.unit for r in rules],
                "selection_groups": [None if r is None else r.groups for r in rules],
            },
        }
        texts, tokens, stored = (
            len(self._texts.ids),
            self._texts.token_count,
            self._plan.logit_dtype,
        )
        shape, counts = (len(layers), experts), np.diff(self._starts)
        for kind in self._plan.kinds:
            own: dict = {"kind": kind}
            if kind == "tokens":
                own["logit_dtype"] = np.dtype(stored).name
                layout = tokens_layout(tokens, *shape, top_k, stored, capacity=capacity)
            else:
                layout = statistics_layout(texts, *shape, capacity=capacity, blocks=blocks)
            if any(b is not None for b in biases):
                layout["selection_bias"] = (np.float32, shape)
            path = trace_path(self._plan.out, self._plan.label, kind, stream)
            writer = TraceWriter(path, metadata | own, layout)
            self._writers[stream, kind] = self._stack.enter_context(writer)
            if kind == "tokens":
                writer.write("text", 0, np.repeat(np.arange(texts), counts))
            else:
                writer.write("token_count", 0, counts)
                if blocks:  # known in full only after the last batch
                    self._bounds[stream] = np.full(layout["choice_bound"][1], -np.inf, np.float32)
            for layer, bias in enumerate(biases):
                if bias is not None:
                    writer.write("selection_bias", layer, bias.numpy()[None])

    def _write_tokens(
        self, writer: TraceWriter, layers: list[LayerRouting], rows: Tensor, batch: list[int]
    ) -> None:
        logits = torch.stack([x.logits[rows] for x in layers], dim=1).float().cpu().numpy()
        with np.errstate(over="ignore"):  # refused by name below
            stored = logits.astype(self._plan.logit_dtype)
        if not np.isfinite(stored).all():
            raise RoutingError(
                f"a logit of {np.abs(logits).max():.3g} does not fit float16: "
                "pass --logit-dtype float32"
            )
        choices = torch.stack([x.choices[rows] for x in layers], dim=1).cpu().numpy()
        values = {"logits": stored, "choices": choices}
        if "dispatched" in writer.layout:
            served = torch.stack([_served(x)[rows] for x in layers], dim=1)
            values["dispatched"] = served.cpu().numpy()
        end = 0
        for text in batch:
            start, end = end, end + len(self._texts.ids[text])
            for name, value in values.items():
                writer.write(name, int(self._starts[text]), value[start:end])


def _served(layer: LayerRouting) -> Tensor:
    if layer.dispatched is None:
        return torch.ones_like(layer.choices, dtype=torch.bool)
    return layer.dispatched


def _write_sums(
    writer: TraceWriter, layers: list[LayerRouting], rows: Tensor, text: Tensor, batch: list[int]
) -> None:
    """A text is wholly in one batch, so its row is written once."""
    capacity = "dispatched_count" in writer.layout
    sums = [
        sum_by_text(
            x.logits[rows],
            x.choices[rows],
            text,
            len(batch),
            _served(x)[rows] if capacity else None,
        )
        for x in layers
    ]
    names = ["logit_sum", "centred_square_sum", "probability_sum", "dispatch_count"]
    for name in [*names, "dispatched_count"] if capacity else names:
        stacked = torch.stack([getattr(s, name) for s in sums], dim=1).cpu().numpy()
        if np.abs(stacked).max(initial=0.0) > np.finfo(np.float32).max:
            raise RoutingError(f"{name} reaches {np.abs(stacked).max():.3g}: too large for float32")
        for number, row in zip(batch, stacked, strict=True):
            writer.write(name, number, row[None])
