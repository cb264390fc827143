"""Visit the checkpoints of a model one after the other; skip what is done, free what was used."""

import gc
import platform
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch

from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.checks import RoutingError
from mfgjax_extract.hub_cache import delete_download
from mfgjax_extract.load import check_placement, load_model, load_tokenizer
from mfgjax_extract.revisions import Revision
from mfgjax_extract.routers import Router, find_routers
from mfgjax_extract.settings import aux_loss_coef, routing_settings
from mfgjax_extract.texts import EncodedTexts, encode_texts
from mfgjax_extract.trace_file import FORMAT, VERSION, is_done, trace_path


@dataclass(frozen=True)
class SweepSettings:
    """What the command line sets, for all checkpoints.

    Attributes:
        name: model name stored in the traces.
        out: folder for the traces.
        tokens: globs of revisions that also get the tokens form.
        dtype: dtype to load in, "auto" for the checkpoint's own.
        device: device to run on.
        batch_tokens: most rows of one forward.
        max_tokens: most tokens kept of each text.
        logit_dtype: stored precision of token logits.
        layers: regular expression; only routers whose path it finds are recorded.
        trust_remote_code: run code that comes with the checkpoint.
        overwrite: replace files of other models, texts or settings.
    """

    name: str
    out: Path
    tokens: tuple[str, ...] = ("*",)
    dtype: str = "auto"
    device: str = "cpu"
    batch_tokens: int = 4096
    max_tokens: int | None = 2048
    logit_dtype: type[np.generic] = np.float16
    layers: str = ""
    trust_remote_code: bool = False
    overwrite: bool = False


class Reporter:
    """What a sweep tells whoever watches; the command line draws it."""

    def start(self, revision: Revision, texts: EncodedTexts) -> None: ...

    def batch(self, texts: int, tokens: int) -> None: ...

    def done(self, revision: Revision, paths: list[Path]) -> None: ...

    def skipped(self, revision: Revision) -> None: ...


def kinds_for(revision: Revision, settings: SweepSettings) -> tuple[str, ...]:
    """The forms to write for `revision`: statistics always, tokens where asked for."""
    tokens = any(fnmatchcase(revision.name, pattern) for pattern in settings.tokens)
    return ("statistics", "tokens") if tokens else ("statistics",)


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
        TraceMismatch: a file in `out` belongs to another model, text set or setting.
        RoutingError: a checkpoint's routing could not be read; earlier ones stay written.
        ValueError: a dtype or device that is not to be had.
    """
    check_placement(settings.dtype, settings.device)
    settings.out.mkdir(parents=True, exist_ok=True)
    for revision in revisions:
        encoded = encode_texts(
            load_tokenizer(revision, settings.trust_remote_code), texts, settings.max_tokens
        )
        kinds = kinds_for(revision, settings)
        if not settings.overwrite and _all_done(revision, encoded, kinds, settings):
            reporter.skipped(revision)
            continue
        reporter.start(revision, encoded)
        paths = _extract(revision, encoded, kinds, settings, reporter)
        reporter.done(revision, paths)
        if delete_downloads:
            delete_download(revision)


def _extract(
    revision: Revision,
    texts: EncodedTexts,
    kinds: tuple[str, ...],
    settings: SweepSettings,
    reporter: Reporter,
) -> list[Path]:
    """Load, run, write; the model is gone when this returns."""
    model = load_model(revision, settings.dtype, settings.device, settings.trust_remote_code)
    metadata = {
        **_identity(revision, texts, settings),
        "step": revision.step,
        "tokens_seen": revision.tokens_seen,
        "aux_loss_coef": aux_loss_coef(model.config),
        "dtype": str(model.dtype).removeprefix("torch."),
        "versions": versions(),
    }
    metadata["routing"] = {
        **routing_settings(model.config),
        **metadata["routing"],
        "encoder_decoder": bool(getattr(model.config, "is_encoder_decoder", False)),
    }
    plan = Plan(
        settings.out, revision.label, kinds, metadata, settings.logit_dtype, settings.batch_tokens
    )
    try:
        routers = chosen_routers(model, settings.layers)
        return extract_checkpoint(model, routers, texts, plan, reporter.batch)
    except RoutingError as error:
        raise RoutingError(f"{settings.name}, {revision.name}: {error}") from error
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def chosen_routers(model: torch.nn.Module, layers: str) -> list[Router]:
    """The routers that text reaches and whose path the regular expression `layers` finds."""
    import re

    found = [r for r in find_routers(model) if r.reached_by_text]
    chosen = [r for r in found if re.search(layers, r.path)]
    if found and not chosen:
        paths = ", ".join(r.path for r in found)
        raise RoutingError(f"--layers {layers!r} matches none of {paths}")
    if not found:
        raise RoutingError(
            f"no router found in {type(model).__name__}: is it a mixture of experts? If so, add "
            "a rule to mfgjax_extract/families.py"
        )
    return chosen


def _identity(revision: Revision, texts: EncodedTexts, settings: SweepSettings) -> dict:
    """The metadata that must agree for a file to count as done."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "model": settings.name,
        "revision": revision.name,
        "tokenizer_hash": texts.tokenizer_hash,
        "texts_hash": texts.texts_hash,
        "text_count": len(texts.ids),
        "routing": {
            "max_tokens": settings.max_tokens,
            "layers_pattern": settings.layers,
            "requested_dtype": settings.dtype,
        },
    }


def _all_done(
    revision: Revision, texts: EncodedTexts, kinds: tuple[str, ...], settings: SweepSettings
) -> bool:
    wanted = _identity(revision, texts, settings)
    done = []
    for kind in kinds:
        path = trace_path(settings.out, revision.label, kind)
        encoder = trace_path(settings.out, revision.label, kind, "encoder")
        done.append(is_done(path, {**wanted, "kind": kind}))
        if encoder.exists():
            is_done(encoder, {**wanted, "kind": kind})
    return all(done)


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
