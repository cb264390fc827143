"""Visit the checkpoints of a model one after the other; skip what is done.

Several sweeps may work on one folder, on one machine or on several that share it: each checkpoint
is written by whoever claims it first (`engines/claim.py`), and what others hold is waited for at the end.
torch is imported when the first checkpoint is extracted: a sweep that is done needs none.
"""

from glob import escape
from pathlib import Path

from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.hub_cache import delete_download
from mfgjax_extract.identity import all_done, identity_now
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES, pinned
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.texts import EncodedTexts, hash_texts


class Reporter:
    """What a sweep tells whoever watches; the command line draws it."""

    def start(self, revision: Revision, texts: EncodedTexts) -> None: ...

    def batch(self, texts: int, tokens: int) -> None: ...

    def done(self, revision: Revision, paths: list[Path]) -> None: ...

    def skipped(self, revision: Revision) -> None: ...

    def failed(self, revision: Revision, reason: str) -> None: ...

    def waiting(self, revision: Revision) -> None: ...


def sweep(
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    reporter: Reporter,
    delete_downloads: bool = False,
) -> list[Revision]:
    """Extract every checkpoint that is not done yet. One that is bad does not stop the others.

    Args:
        revisions: the checkpoints, from `list_revisions`.
        texts: the texts.
        settings: everything else.
        reporter: gets progress.
        delete_downloads: delete each hub revision from the cache once its traces are written.

    Returns:
        The checkpoints that failed; `reporter` got the reason of each.

    Raises:
        TraceMismatch: a file in `out` belongs to another model, text set or setting, or to other
            weights of this name. Said of all checkpoints before the first one is loaded.
        RoutingError: the only checkpoint's routing could not be read.
        ValueError: a dtype or device that is not to be had, or the only checkpoint is damaged.
        OSError: the disk is full; nothing half-written stays.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    texts_hash = hash_texts(texts)
    revisions = [pinned(revision) for revision in revisions]
    refuse_mismatches(revisions, texts, settings)

    def visit(revision: Revision) -> None:
        own = identity_now(revision, texts_hash, len(texts), settings)
        if not settings.overwrite and all_done(revision, own, settings):
            reporter.skipped(revision)
            return
        from mfgjax_extract.load import check_placement
        from mfgjax_extract.one_checkpoint import extract_revision

        check_placement(settings.dtype, settings.device)  # would fail for all: not caught below
        try:
            paths = extract_revision(revision, texts, own, settings, reporter)
        except Exception as error:
            if len(revisions) == 1 or not is_of_one_checkpoint(error):
                raise
            failed.append(revision)
            reporter.failed(revision, " ".join(str(error).split()))
            return
        reporter.done(revision, paths)
        if delete_downloads:
            delete_download(revision)

    failed: list[Revision] = []
    held_elsewhere = []
    for revision in revisions:
        with claimed(settings.out / NOTES, revision.label) as mine:
            if mine:
                visit(revision)
            else:
                held_elsewhere.append(revision)
    for revision in held_elsewhere:
        reporter.waiting(revision)
        with claimed(settings.out / NOTES, revision.label, wait=True):
            visit(revision)
    return failed


def refuse_mismatches(
    revisions: list[Revision], texts: list[str], settings: SweepSettings
) -> list[Revision]:
    """Look at the files that are there already, before anything is loaded.

    Returns:
        The checkpoints that are done; none where they are to be overwritten.

    Raises:
        TraceMismatch: a file belongs to another model, text set, setting, or to other weights.
    """
    if settings.overwrite:
        return []
    texts_hash = hash_texts(texts)

    def now(revision: Revision) -> dict:
        return identity_now(revision, texts_hash, len(texts), settings)

    there = [r for r in revisions if any(settings.out.glob(f"{escape(r.label)}.*"))]
    return [r for r in there if all_done(r, now(r), settings)]


def is_of_one_checkpoint(error: Exception) -> bool:
    """Whether `error` says that one checkpoint is bad, so that the others may still be sound."""
    from mfgjax_extract.checks import RoutingError

    if isinstance(error, OSError):  # without a number: transformers misses a file of it
        return error.errno is None and not isinstance(error, ConnectionError)
    return isinstance(error, RoutingError | ValueError)
