"""What exactly a checkpoint is, weights included: a hub commit, or a digest of a folder's files."""

import dataclasses
import hashlib
import json
import os
import time
import uuid
from fnmatch import fnmatchcase
from pathlib import Path

from mfgjax_extract.revisions import Revision

NOTES = ".extract"
"""Folder below the traces for what is not a trace."""

_LOADED = (
    *("config.json", "*.safetensors", "pytorch_model*.bin", "*.index.json", "*.py"),
    *("tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens.json"),
    *("*.model", "*.tiktoken"),
)
"""Names of the files that `from_pretrained` may read; states of a trainer are not among them."""

_SETTLED_S = 2.0
"""A file changed this recently is read again next time: a later change could bear the same time."""


def pinned(revision: Revision) -> Revision:
    """`revision` with the commit in place of a branch or tag, which may move during a sweep.

    Raises:
        ValueError: the hub has no such model or revision.
        ConnectionError: the hub does not answer and the model is not in the cache.
    """
    if revision.hub_revision is None:
        return revision
    return dataclasses.replace(
        revision, hub_revision=_commit(revision.source, revision.hub_revision)
    )


def _commit(model: str, name: str) -> str:
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        # Asked here because loading asks file by file, and each file five times over 30 s.
        return str(HfApi().model_info(model, revision=name, timeout=10).sha)
    except RevisionNotFoundError:
        raise ValueError(f"{model}: the hub has no revision {name!r} of it") from None
    except RepositoryNotFoundError:
        raise ValueError(
            f"{model}: no such folder here and no such model on the hub. Look at the spelling; a "
            "private model needs `hf auth login`"
        ) from None
    except ValueError:
        raise
    except Exception as error:  # offline, no name service, timeout, proxy: the cache may do
        config = try_to_load_from_cache(model, "config.json", revision=name)
        if isinstance(config, str):
            return Path(config).parent.name
        raise ConnectionError(
            f"{model}: no such folder here, revision {name!r} is not in the download cache, and the "
            f"hub cannot be asked ({error}). Look at the spelling and the network"
        ) from None


def source_digest(revision: Revision, out: Path) -> str:
    """Identifies the files that a load of `revision` reads.

    Args:
        revision: a checkpoint; of the hub, a pinned one.
        out: folder of the traces. What was read of a folder's files is noted there, so that only
            files whose size or times changed are read again.

    Returns:
        `commit:...` for the hub, `sha256:...` for a folder.
    """
    if revision.hub_revision is not None:
        return f"commit:{revision.hub_revision}"
    note = out / NOTES / f"{revision.label}.source.json"
    known = _read_note(note)
    folder = Path(revision.source)
    found = {p.name: _state(p) for p in sorted(folder.iterdir()) if _is_loaded(p)}
    digests = {}
    for name, state in found.items():
        before = known.get(f"{folder.resolve()}/{name}")
        digests[name] = before[1] if before and before[0] == state else _sha256(folder / name)
    settled = time.time_ns() - int(_SETTLED_S * 1e9)
    fresh = {
        f"{folder.resolve()}/{name}": [state, digests[name]]
        for name, state in found.items()
        if max(state[1:]) < settled
    }
    if fresh != known and out.is_dir():
        _write_note(note, fresh)
    return "sha256:" + hashlib.sha256(json.dumps(sorted(digests.items())).encode()).hexdigest()


def _is_loaded(path: Path) -> bool:
    return path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in _LOADED)


def _state(path: Path) -> list[int]:
    """Size and times. The last cannot be set by hand, as a copy or an archive sets the other."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_note(path: Path) -> dict:
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _write_note(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, path)
