"""Visit the checkpoints of a model one after the other; skip what is done, free what was used.

Several sweeps may work on one folder, on one machine or on several that share it: each checkpoint
is written by whoever claims it first (`claim.py`), and what others hold is waited for at the end.
"""

import gc
import platform
from glob import escape
from pathlib import Path

import torch

from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.checks import RoutingError
from mfgjax_extract.claim import claimed
from mfgjax_extract.hub_cache import delete_download
from mfgjax_extract.identity import all_done, identity
from mfgjax_extract.load import check_placement, load_model, load_tokenizer
from mfgjax_extract.revisions import Revision
from mfgjax_extract.routers import Router, find_routers, is_encoder_decoder, matching
from mfgjax_extract.settings import aux_loss_coef, routing_settings
from mfgjax_extract.source import pinned, source_digest
from mfgjax_extract.sweep_settings import SweepSettings, kinds_for
from mfgjax_extract.texts import EncodedTexts, encode_texts, hash_texts
from mfgjax_extract.trace_file import remove_partial


class Reporter:
    """What a sweep tells whoever watches; the command line draws it."""

    def start(self, revision: Revision, texts: EncodedTexts) -> None: ...

    def batch(self, texts: int, tokens: int) -> None: ...

    def done(self, revision: Revision, paths: list[Path]) -> None: ...

    def skipped(self, revision: Revision) -> None: ...

    def waiting(self, revision: Revision) -> None: ...


def sweep(
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    reporter: Reporter,
    delete_downloads: bool = False,
) -> None:
    """Extract every checkpoint that is not done yet.

    Args:
        revisions: the checkpoints, from `list_revisions`.
        texts: the texts.
        settings: everything else.
        reporter: gets progress.
        delete_downloads: delete each hub revision from the cache once its traces are written.

    Raises:
        TraceMismatch: a file in `out` belongs to another model, text set or setting, or to other
            weights of this name. Said of all checkpoints before the first one is loaded.
        RoutingError: a checkpoint's routing could not be read; earlier ones stay written.
        ValueError: a dtype or device that is not to be had, or a checkpoint that cannot be read.
        OSError: the disk is full; nothing half-written stays.
    """
    check_placement(settings.dtype, settings.device)
    settings.out.mkdir(parents=True, exist_ok=True)
    texts_hash = hash_texts(texts)
    revisions = [pinned(revision) for revision in revisions]

    def wanted(revision: Revision) -> dict:
        source = source_digest(revision, settings.out)
        return identity(revision, source, texts_hash, len(texts), settings)

    if not settings.overwrite:
        for revision in revisions:
            if any(settings.out.glob(f"{escape(revision.label)}.*")):
                all_done(revision, wanted(revision), settings)

    def visit(revision: Revision) -> None:
        own = wanted(revision)
        if not settings.overwrite and all_done(revision, own, settings):
            reporter.skipped(revision)
            return
        remove_partial(settings.out, revision.label)
        tokenizer = load_tokenizer(revision, settings.trust_remote_code)
        encoded = encode_texts(tokenizer, texts, settings.max_tokens)
        reporter.start(revision, encoded)
        paths = _extract(revision, encoded, own, settings, reporter)
        reporter.done(revision, paths)
        if delete_downloads:
            delete_download(revision)

    held_elsewhere = []
    for revision in revisions:
        with claimed(settings.out, revision.label) as mine:
            if mine:
                visit(revision)
            else:
                held_elsewhere.append(revision)
    for revision in held_elsewhere:
        reporter.waiting(revision)
        with claimed(settings.out, revision.label, wait=True):
            visit(revision)


def _extract(
    revision: Revision,
    texts: EncodedTexts,
    own: dict,
    settings: SweepSettings,
    reporter: Reporter,
) -> list[Path]:
    """Load, run, write; the model is gone when this returns."""
    model = load_model(revision, settings.dtype, settings.device, settings.trust_remote_code)
    if source_digest(revision, settings.out) != own["source"]:
        raise RoutingError(
            f"{revision.source} was written to while it was read: wait until it is whole"
        )
    metadata = {
        **own,
        "tokenizer_hash": texts.tokenizer_hash,
        "aux_loss_coef": aux_loss_coef(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
        "routing": {
            **routing_settings(model.config),
            **own["routing"],
            "encoder_decoder": is_encoder_decoder(model),
            "batch_tokens": settings.batch_tokens,
            "device": settings.device,
        },
    }
    plan = Plan(
        settings.out,
        revision.label,
        kinds_for(revision, settings),
        metadata,
        settings.logit_dtype,
        settings.batch_tokens,
        settings.choice_blocks,
    )
    try:
        routers = chosen_routers(model, settings.layers)
        paths = extract_checkpoint(model, routers, texts, plan, reporter.batch)
    except RoutingError as error:
        raise RoutingError(f"{settings.name}, {revision.name}: {error}") from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return paths


def chosen_routers(model: torch.nn.Module, layers: str) -> list[Router]:
    """The routers that text reaches and whose path the regular expression `layers` finds."""
    found = [r for r in find_routers(model) if r.reached_by_text]
    chosen = matching(found, layers)
    if found and not chosen:
        paths = ", ".join(r.path for r in found)
        raise RoutingError(f"--layers {layers!r} matches none of {paths}")
    if not found:
        raise RoutingError(
            f"no router found in {type(model).__name__}: is it a mixture of experts? If so, add "
            "a rule to mfgjax_extract/families.py"
        )
    return chosen


def versions() -> dict[str, str]:
    """Versions that decide what the model computes."""
    import transformers

    import mfgjax_extract

    return {
        "mfgjax_extract": mfgjax_extract.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
