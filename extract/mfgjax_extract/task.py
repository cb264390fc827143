"""What runs on a node: one checkpoint, from its name to a few lines about its files."""

import json
import os
import socket
import time
from dataclasses import dataclass

from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.engines.drive import Outcome, failure
from mfgjax_extract.engines.shared_folder import Handover, NotShared
from mfgjax_extract.hub_cache import downloaded
from mfgjax_extract.identity import all_done, identity_now
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES
from mfgjax_extract.sweep import Reporter, is_of_one_checkpoint
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.texts import hash_texts
from mfgjax_extract.trace_file import read_metadata


@dataclass(frozen=True)
class Task:
    """One checkpoint, and all that a node needs to know.

    Attributes:
        revision: a pinned checkpoint.
        settings: of the sweep; `out` is absolute.
        handover: where the texts are.
        threads: threads of torch; None leaves them as they are.
        delete_download: delete what was downloaded, if nobody else here reads it.
        wait: for whoever holds the claim.
    """

    revision: Revision
    settings: SweepSettings
    handover: Handover
    threads: int | None = None
    delete_download: bool = False
    wait: bool = False

    @property
    def name(self) -> str:
        return self.revision.name


@dataclass(frozen=True)
class Written:
    """One trace file."""

    path: str
    digest: str
    bytes: int


@dataclass(frozen=True)
class Extracted(Outcome):
    """What became of a checkpoint.

    Attributes:
        tokens: routed.
        files: written.
    """

    tokens: int = 0
    files: tuple[Written, ...] = ()


class _Counter(Reporter):
    tokens = 0

    def batch(self, texts: int, tokens: int) -> None:
        self.tokens += tokens


def run_task(task: Task) -> Extracted:
    """Extract one checkpoint where it is not done. Errors are part of the outcome."""
    begun, counter = time.monotonic(), _Counter()
    try:
        state, files = _extract(task, counter)
    except Exception as error:
        stops = isinstance(error, NotShared | _Placement) or not is_of_one_checkpoint(error)
        return Extracted(**failure(error, begun, stops))
    took = time.monotonic() - begun
    return Extracted(state, socket.gethostname(), took, tokens=counter.tokens, files=tuple(files))


class _Placement(ValueError):
    """A dtype or device that this node cannot give."""


def _extract(task: Task, counter: _Counter):
    revision, settings = task.revision, task.settings
    texts = json.loads(task.handover.read())
    with claimed(settings.out / NOTES, revision.label, task.wait) as mine:
        if not mine:
            return "held", []
        own = identity_now(revision, hash_texts(texts), len(texts), settings)
        if not settings.overwrite and all_done(revision, own, settings):
            return "skipped", []
        if task.threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(task.threads)  # read when torch is imported
        import torch

        from mfgjax_extract.load import check_placement
        from mfgjax_extract.one_checkpoint import extract_revision

        if task.threads is not None:
            torch.set_num_threads(task.threads)
        try:
            check_placement(settings.dtype, settings.device)
        except ValueError as error:
            raise _Placement(str(error)) from None
        with downloaded(revision, settings.out, task.delete_download):
            paths = extract_revision(revision, texts, own, settings, counter)
        return "written", [
            Written(str(p), read_metadata(p)["content_digest"], p.stat().st_size) for p in paths
        ]
