"""The task of a sweep: one checkpoint, from its name to its trace files."""

import gc
import platform
from pathlib import Path

import torch

from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.checks import RoutingError
from mfgjax_extract.load import check_placement, load_model, load_tokenizer
from mfgjax_extract.revisions import Revision
from mfgjax_extract.routers import Router, find_routers, is_encoder_decoder, matching
from mfgjax_extract.settings import aux_loss_coef, routing_settings
from mfgjax_extract.source import source_digest
from mfgjax_extract.sweep import Reporter
from mfgjax_extract.sweep_settings import SweepSettings, kinds_for
from mfgjax_extract.texts import encode_texts
from mfgjax_extract.trace_file import remove_partial


def extract_revision(
    revision: Revision,
    texts: list[str],
    own: dict,
    settings: SweepSettings,
    reporter: Reporter,
) -> list[Path]:
    """Load, run, write; the model is gone when this returns. For who holds the claim.

    Args:
        revision: a pinned checkpoint.
        texts: the texts.
        own: from `identity`.
        settings: of the sweep.
        reporter: gets progress.

    Raises:
        RoutingError: the routing could not be read.
        ValueError: a dtype or device that is not to be had, or a checkpoint that cannot be read.
        OSError: the disk is full; nothing half-written stays.
    """
    check_placement(settings.dtype, settings.device)
    remove_partial(settings.out, revision.label)
    tokenizer = load_tokenizer(revision, settings.trust_remote_code)
    encoded = encode_texts(tokenizer, texts, settings.max_tokens)
    reporter.start(revision, encoded)
    model = load_model(revision, settings.dtype, settings.device, settings.trust_remote_code)
    if source_digest(revision, settings.out) != own["source"]:
        raise RoutingError(
            f"{revision.source} was written to while it was read: wait until it is whole"
        )
    metadata = {
        **own,
        "tokenizer_hash": encoded.tokenizer_hash,
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
        paths = extract_checkpoint(model, routers, encoded, plan, reporter.batch)
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
