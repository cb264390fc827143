"""Load one checkpoint through transformers, and refuse one whose routers were not in the file."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
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
    """The checkpoint's tokenizer. Raises `ValueError` if there is none that can be read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            revision.source, trust_remote_code=trust_remote_code, **_at(revision)
        )
    except (OSError, ImportError):
        raise  # these say what they are about
    except Exception as error:  # a bare Exception is what the tokenizers library raises
        raise ValueError(
            f"{revision.source}: its tokenizer cannot be read ({_reason(error)})"
        ) from None


def load_model(
    revision: Revision, dtype: str, device: str, trust_remote_code: bool, head: bool = False
) -> nn.Module:
    """The base model, in eval mode.

    Args:
        revision: what to load.
        dtype: a torch dtype name, or "auto" for the checkpoint's own.
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread over devices (accelerate).
        trust_remote_code: run code that comes with the checkpoint.
        head: with its language-model head, to train it.

    Raises:
        RoutingError: router weights are missing from the checkpoint, so that transformers filled
            them with random numbers.
        ValueError: a file of weights is truncated or damaged.
    """
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    kind: Any = AutoModelForCausalLM if head else AutoModel
    placement = {"device_map": "auto"} if device == "auto" else {}
    try:
        model, info = kind.from_pretrained(
            revision.source,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **placement,
            **_at(revision),
        )
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{_damaged_file(revision)}: truncated or damaged ({_reason(error)}). Copy or download "
            "it again"
        ) from None
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:5])
        raise RoutingError(
            f"{revision.source} ({revision.name}): {len(missing)} weights are not in the "
            f"checkpoint and were filled with random numbers ({shown}, ...): it was saved by "
            "another architecture or transformers version"
        )
    return model.eval() if device == "auto" else model.to(device).eval()


def _damaged_file(revision: Revision) -> str:
    """The first file of weights that does not open, else the checkpoint."""
    for path in sorted(Path(revision.source).glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy"):
                pass
        except (SafetensorError, OSError):
            return str(path)
    return revision.source


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _at(revision: Revision) -> dict:
    return {} if revision.hub_revision is None else {"revision": revision.hub_revision}
