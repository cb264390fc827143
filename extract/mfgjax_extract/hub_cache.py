"""Downloads of the Hugging Face hub: one at a time in each cache, a bounded number at all, deleted
after the last reader where asked, to keep a sweep's disk flat."""

import os
import random
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES

MOST_DOWNLOADS = 8
"""Downloads at a time into all caches together, for one folder of traces: the hub limits its users."""


@contextmanager
def downloaded(revision: Revision, out: Path, delete: bool) -> Iterator[None]:
    """The files of a hub revision in this node's cache, while the block reads them.

    Args:
        revision: a pinned checkpoint; of a local folder nothing is done.
        out: folder of the traces, where all nodes count their downloads.
        delete: the revision afterwards, unless another reader of this cache is at it.
    """
    if revision.hub_revision is None:
        yield
        return
    from huggingface_hub import constants

    notes = Path(constants.HF_HUB_CACHE) / ".mfgjax-extract"
    notes.mkdir(parents=True, exist_ok=True)
    # Deleting takes it too: files that revisions share must not go while another links them.
    one_at_a_time = FileLock(notes / f"{revision.source.replace('/', '--')}.lock")
    reader = FileLock(notes / f"{revision.hub_revision}.{uuid.uuid4().hex[:12]}.reader")
    with ExitStack() as reading:
        with one_at_a_time:
            reading.enter_context(reader)
            if not _is_cached(revision):
                with _one_of_the_downloads(out):
                    _download(revision)
        try:
            yield
        finally:
            with one_at_a_time:
                reader.release()
                Path(reader.lock_file).unlink(missing_ok=True)
                if delete and not _is_read(notes, revision.hub_revision):
                    delete_download(revision, notes.parent)


def _is_read(notes: Path, commit: str) -> bool:
    """Whether a living process reads `commit`; what killed readers left is deleted."""
    for path in notes.glob(f"{commit}.*.reader"):
        try:
            with FileLock(path, timeout=0):
                path.unlink(missing_ok=True)
        except Timeout:
            return True
    return False


@contextmanager
def _one_of_the_downloads(out: Path) -> Iterator[None]:
    while True:
        for place in random.sample(range(MOST_DOWNLOADS), MOST_DOWNLOADS):
            with claimed(out / NOTES, f"download-{place}") as mine:
                if mine:
                    yield
                    return
        time.sleep(1.0)


_WEIGHTS_OF_OTHERS = ["*.msgpack", "*.h5", "*.onnx", "*.gguf", "*.pt", "*.pth", "original/*"]


def _is_cached(revision: Revision) -> bool:
    """Whether nothing would be downloaded, without asking the hub."""
    from huggingface_hub import try_to_load_from_cache

    def has(name: str) -> bool:
        found = try_to_load_from_cache(revision.source, name, revision=revision.hub_revision)
        return isinstance(found, str) and os.path.exists(found)

    return has("config.json") and (has("model.safetensors") or has("pytorch_model.bin"))


def _download(revision: Revision) -> None:
    from huggingface_hub import HfApi, snapshot_download

    try:
        names = HfApi().list_repo_files(revision.source, revision=revision.hub_revision)
    except Exception:  # offline: loading says what the cache lacks
        return
    skipped = list(_WEIGHTS_OF_OTHERS)
    if any(name.endswith(".safetensors") for name in names):
        skipped.append("*.bin")
    snapshot_download(revision.source, revision=revision.hub_revision, ignore_patterns=skipped)


def delete_download(revision: Revision, cache: Path | None = None) -> int:
    """Delete the cached files that only `revision` uses.

    Args:
        revision: a hub revision; a local folder is never touched.
        cache: cache folder, by default the one of `huggingface_hub`.

    Returns:
        Bytes freed.
    """
    if revision.hub_revision is None:
        return 0
    from huggingface_hub import scan_cache_dir

    info = scan_cache_dir(cache)
    commits = [
        cached.commit_hash
        for repo in info.repos
        if repo.repo_id == revision.source
        for cached in repo.revisions
        if revision.hub_revision in cached.refs or revision.hub_revision == cached.commit_hash
    ]
    if not commits:
        return 0
    strategy = info.delete_revisions(*commits)
    strategy.execute()
    return strategy.expected_freed_size
