"""What must agree for a trace to count as done: model, weights, texts and settings."""

from pathlib import Path

import numpy as np

from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import source_digest
from mfgjax_extract.sweep_settings import SweepSettings, kinds_for
from mfgjax_extract.trace_file import (
    FORMAT,
    VERSION,
    TraceMismatch,
    content_digest,
    read_metadata,
    trace_path,
)


def identity(
    revision: Revision, source: str, texts_hash: str, text_count: int, settings: SweepSettings
) -> dict:
    """The metadata that must agree. The tokenizer is part of `source`.

    What only decides rounding (batch, device, versions) is in the metadata too, but need not agree:
    a sweep may be resumed with smaller batches, or elsewhere.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": settings.name,
        "revision": revision.name,
        "step": revision.step,
        "tokens_seen": revision.tokens_seen,
        "source": source,
        "texts_hash": texts_hash,
        "text_count": text_count,
        "routing": {
            "max_tokens": settings.max_tokens,
            "layers_pattern": settings.layers,
            "choice_blocks": settings.choice_blocks,
            "requested_dtype": settings.dtype,
            "trust_remote_code": settings.trust_remote_code,
        },
    }


def identity_now(
    revision: Revision, texts_hash: str, text_count: int, settings: SweepSettings
) -> dict:
    """`identity` of a pinned checkpoint, with what its weights are now."""
    source = source_digest(revision, settings.out)
    return identity(revision, source, texts_hash, text_count, settings)


def all_done(revision: Revision, wanted: dict, settings: SweepSettings) -> bool:
    """Whether every trace of `revision` is there and of what `wanted` describes.

    Raises:
        TraceMismatch: a file is there but broken, or of another model, text set or setting.
    """
    done = []
    for kind in kinds_for(revision, settings):
        own = {"kind": kind}
        if kind == "tokens":
            own["logit_dtype"] = np.dtype(settings.logit_dtype).name
        main = trace_path(settings.out, revision.label, kind)
        encoder = trace_path(settings.out, revision.label, kind, "encoder")
        done.append(is_done(main, wanted | own, settings.verify))
        if encoder.exists():
            is_done(encoder, wanted | own, settings.verify)
    return all(done)


def is_done(path: Path, wanted: dict, verify: bool = False) -> bool:
    """Whether `path` is a complete trace of what `wanted` describes.

    Args:
        path: the trace file.
        wanted: metadata that must agree; a nested dictionary is compared key by key.
        verify: also read the file and compare its digest.

    Raises:
        TraceMismatch: a file is there but broken, or of another model, text set or setting.
    """
    if not path.exists():
        return False
    found = read_metadata(path)
    for key, value in wanted.items():
        pairs = (
            [(f"{key}.{k}", v, found.get(key, {}).get(k)) for k, v in value.items()]
            if isinstance(value, dict)
            else [(key, value, found.get(key))]
        )
        for name, want, have in pairs:
            if want != have:
                raise TraceMismatch(f"{path} {_difference(name, want, have)}: {_REMEDY}")
    if verify and content_digest(path) != found.get("content_digest"):
        raise TraceMismatch(f"{path}: its tensors are not what was written. Delete it")
    return True


_REMEDY = "choose another --out, or pass --overwrite"


def _difference(name: str, want, have) -> str:
    if name == "source" and have is None:
        return "does not say which weights it was made from"
    if name == "source":
        return f"was made from other weights under the same name ({have}, now {want})"
    return f"was made with {name} = {have!r}, now {want!r}"
