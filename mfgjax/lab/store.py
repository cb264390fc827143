"""Runs on disk: the state that a batch of runs goes on from, whole or not at all, and traces of checkpoints."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from jax import tree_util
from safetensors.numpy import save

from mfgjax.lab.corpus import HeldOut
from mfgjax.lab.model import Routed
from mfgjax.lab.train import Record, State, Trainer
from mfgjax.report.files import plain, write_whole
from mfgjax.trace import TokenTrace, TraceMetadata, write_trace
from mfgjax.trace.statistics import statistics_of

BLOCKS = 4
"""Blocks of texts that a trace keeps bounds of the price for."""


def _named(tree: Any) -> dict[str, Any]:
    leaves = tree_util.tree_flatten_with_path(tree)[0]
    return {tree_util.keystr(path): leaf for path, leaf in leaves}


def write_state(path: Path, state: State, history: Record) -> None:
    """Weights, moments, prices and the record of every step so far."""
    tensors = {f"state{name}": np.asarray(leaf) for name, leaf in _named(state).items()}
    tensors |= {f"history{name}": np.asarray(leaf) for name, leaf in _named(history).items()}
    tensors = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    write_whole(path, save(tensors))


def read_state(path: Path, like: State) -> tuple[State, Record]:
    """What `write_state` wrote, in the structure of `like`.

    Raises:
        ValueError: a file of another model, rule or number of runs; it names what differs.
    """
    with safetensors.safe_open(path, framework="numpy") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    leaves = []
    for name, leaf in _named(like).items():
        value = found.get(f"state{name}")
        if value is None or value.shape != leaf.shape or value.dtype != leaf.dtype:
            held = "nothing" if value is None else f"{value.dtype}{value.shape}"
            raise ValueError(
                f"{path}: holds {held} for {name}, {leaf.dtype}{leaf.shape} expected. The preset or the "
                "rule has changed since: choose another folder."
            )
        leaves.append(jnp.asarray(value))
    history = Record(*(found[f"history.{name}"] for name in Record._fields))
    return tree_util.tree_unflatten(tree_util.tree_structure(like), leaves), history


def joined(before: Record | None, after: Record) -> Record:
    """Records of `[run, step, ...]` one after the other, on the host."""
    after = Record(*(np.asarray(part) for part in after))
    if before is None:
        return after
    return Record(*(np.concatenate(pair, axis=1) for pair in zip(before, after, strict=True)))


def trace_of(
    trainer: Trainer, state: State, routed: Routed, text: HeldOut, name: str
) -> TokenTrace:
    """One run's routing of the held-out text, as `mfgjax track` and `mfgjax fit` read it.

    Args:
        trainer, state, routed: of one run, whose every token has K choices.
        text: what was routed.
        name: of the model, `arm/seed`.
    """
    memory, rule, step = trainer.memory(state.price), trainer.rule, int(state.step)
    count, length = len(text.windows), text.windows.shape[1] - 1
    layers, _, experts = routed.logits.shape
    names = tuple(f"layers.{layer}.router" for layer in range(layers))
    metadata = TraceMetadata(
        kind="tokens",
        model=f"lab/{name}",
        revision=f"step{step}-tokens{step * trainer.plan.tokens}",
        step=step,
        tokens_seen=step * trainer.plan.tokens,
        experts=experts,
        top_k=trainer.shape.top_k,
        layers=names,
        texts_hash=text.digest,
        text_count=count,
        aux_loss_coef=float(memory["alpha"][0]) if "alpha" in memory else None,
        versions={"jax": jax.__version__},
        routing={
            "selection_score": [rule.score] * layers,
            "selection_unit": [2.0**-24] * layers,
            "selection_groups": [None] * layers,
        },
    )
    dropped = np.asarray(routed.weights).swapaxes(0, 1) == 0
    biased = rule.score != "unknown" and "bias" in memory
    return TokenTrace(
        metadata,
        np.asarray(routed.logits, np.float32).swapaxes(0, 1),
        np.asarray(routed.choices).swapaxes(0, 1).astype(np.uint8 if experts <= 256 else np.uint16),
        np.repeat(np.arange(count, dtype=np.int32), length),
        np.asarray(memory["bias"], np.float32) if biased else None,
        (~dropped).astype(np.uint8) if dropped.any() else None,
    )


def write_checkpoint(folder: Path, trace: TokenTrace) -> Path:
    """The statistics of a trace, with bounds of the price where its rule is known."""
    path = folder / f"{trace.metadata.revision}.statistics.safetensors"
    ranked = trace.metadata.routing["selection_score"][0] != "unknown"
    write_trace(path, statistics_of(trace, choice_blocks=BLOCKS if ranked else 0))
    return path


def write_json(path: Path, content: Any) -> None:
    """Numbers that are not finite become null."""
    write_whole(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
