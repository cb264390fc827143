"""Load one checkpoint through transformers, and refuse one whose routers were not in the file."""

import torch
from torch import nn

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.revisions import Revision

DTYPES = ("auto", "float32", "bfloat16", "float16")


def check_placement(dtype: str, device: str) -> None:
    """Raise `ValueError` for a dtype or device that this machine cannot give a model."""
    if dtype not in DTYPES:
        raise ValueError(f"--dtype {dtype}: one of {', '.join(DTYPES)} was expected")
    if device == "auto":
        return
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error) or "not there").splitlines()[0]
        raise ValueError(
            f"--device {device}: torch cannot use it here ({reason}). Choose cpu, or install torch "
            "for that device"
        ) from None


def load_tokenizer(revision: Revision, trust_remote_code: bool):
    """The checkpoint's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        revision.source, trust_remote_code=trust_remote_code, **_at(revision)
    )


def load_model(revision: Revision, dtype: str, device: str, trust_remote_code: bool) -> nn.Module:
    """The base model (without LM head), in eval mode.

    Args:
        revision: what to load.
        dtype: a torch dtype name, or "auto" for the checkpoint's own.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread over devices (accelerate).
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        RoutingError: router weights are missing from the checkpoint, so that transformers filled
            them with random numbers.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    placement = {"device_map": "auto"} if device == "auto" else {}
    model, info = AutoModel.from_pretrained(
        revision.source,
        dtype=dtype if dtype == "auto" else getattr(torch, dtype),
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        **placement,
        **_at(revision),
    )
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5])
        raise RoutingError(
            f"{revision.source} ({revision.name}): {len(missing)} weights are not in the "
            f"checkpoint and were filled with random numbers ({shown}, ...): it was saved by "
            "another architecture or transformers version"
        )
    return model.eval() if device == "auto" else model.to(device).eval()


def _at(revision: Revision) -> dict:
    return {} if revision.hub_revision is None else {"revision": revision.hub_revision}
