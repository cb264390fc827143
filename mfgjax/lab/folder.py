"""The folder of a lab: what lies in it, and that one process at a time works in it.

FOLDER/preset.json                 what is trained, on which text
FOLDER/states/<rule>-<n>.safetensors   weights, moments, prices and the record of every step
FOLDER/arms/<arm>/seed<k>/*.statistics.safetensors   traces: `mfgjax track FOLDER/arms/<arm>/seed<k>`
FOLDER/arms/<arm>/seed<k>/measures.json
FOLDER/results.json                all of it in one file

Every file is there whole or not at all.
"""

import errno
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from mfgjax.lab.corpus import Corpus
from mfgjax.lab.preset import Arm, Preset
from mfgjax.lab.store import write_json

_FULL = (errno.ENOSPC, errno.EDQUOT)


class LabError(RuntimeError):
    """A run that cannot go on; says which arm, seed and step. All that came before it is kept."""


@contextmanager
def sole_use(out: Path) -> Iterator[None]:
    """The folder to this process alone, until it ends in whatever way.

    Raises:
        ValueError: another process has it.
        LabError: the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / "lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"{out}: another run of the lab works in this folder. Wait for it, or choose another folder."
        ) from None
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise LabError(
            f"{out}: the disk is full. What was written before is whole and kept. Make room, and run the same "
            "command again: it goes on from there."
        ) from error


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """Where the traces and measures of one run are."""
    return out / "arms" / arm.name / f"seed{seed}"


def prepared(out: Path, preset: Preset, corpus: Corpus) -> dict[str, Any]:
    """What `preset.json` holds, or will: a folder in which nothing was run yet is written to by the first batch.

    Raises:
        ValueError: a folder of another preset or text.
    """
    path = out / "preset.json"
    wanted = {"preset": preset.to_json(), "text": corpus.digest}
    if path.exists():
        found = json.loads(path.read_text())
        if found["preset"] != json.loads(json.dumps(wanted["preset"])):
            raise ValueError(
                f"{out}: holds runs of another preset (preset.json). Choose another folder."
            )
        if found["text"] != wanted["text"]:
            raise ValueError(
                f"{out}: its runs saw the text of Python {found['python']}, whose standard library "
                f"differs from that of {platform.python_version()}. Choose another folder."
            )
        return found
    device = jax.devices()[0]
    return wanted | {
        "python": platform.python_version(),
        "jax": jax.__version__,
        "device": f"{device.platform}: {device.device_kind}",
        "cores": os.cpu_count(),
        "at_once": {},
    }


def gather(out: Path, preset: Preset, made: dict[str, Any]) -> dict[str, Any]:
    """`results.json`: what was trained, and the measures of every run."""
    runs = []
    for arm in preset.arms:
        for seed in range(preset.seeds):
            path = run_folder(out, arm, seed) / "measures.json"
            if path.exists():
                own = {
                    "arm": arm.name,
                    "rule": arm.rule,
                    "settings": dict(arm.settings),
                    "seed": seed,
                }
                runs.append(own | json.loads(path.read_text()))
    results = {**made, "runs": runs}
    write_json(out / "results.json", results)
    return results
