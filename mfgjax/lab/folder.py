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
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from filelock import FileLock, Timeout

from mfgjax.lab.corpus import Corpus
from mfgjax.lab.preset import Arm, Preset, named_arm
from mfgjax.lab.rule import Rule
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


def is_measured(out: Path, runs: Iterable[tuple[Arm, int]]) -> bool:
    """Whether nothing is left to do for these runs."""
    return all((run_folder(out, arm, seed) / "measures.json").exists() for arm, seed in runs)


def device_here() -> str:
    """What trains in this process."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def prepared(
    out: Path, preset: Preset, corpus: Corpus, rules: Mapping[str, Rule]
) -> dict[str, Any]:
    """What `preset.json` holds, or will: nothing is written before a batch is.

    A folder takes further arms and seeds, beside those that it has.

    Raises:
        ValueError: a folder of other models, of another text, or of a rule whose file has changed since.
    """
    path, wanted = out / "preset.json", json.loads(json.dumps(preset.to_json()))
    made = {
        "preset": wanted,
        "text": corpus.digest,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "rules": {a.rule: rules[a.rule].digest for a in preset.arms if rules[a.rule].digest},
        "batches": {},
    }
    if not path.exists():
        return made
    found = json.loads(path.read_text())
    had = found["preset"]
    differ = [name for name in ("shape", "plan", "held_out", "traces") if had[name] != wanted[name]]
    if differ or "rules" not in found:
        raise ValueError(
            f"{out}: holds runs of another preset (preset.json: {', '.join(differ) or 'of an earlier version'}). "
            "Choose another folder."
        )
    if found["text"] != made["text"]:
        raise ValueError(
            f"{out}: its runs saw the text of Python {found['python']}, whose standard library "
            f"differs from that of {made['python']}. Choose another folder."
        )
    for name, digest in made["rules"].items():
        if found["rules"].setdefault(name, digest) != digest:
            raise ValueError(
                f"{out}: holds runs of {name}.py as it was before it was changed. Give the file another name, or "
                "choose another folder."
            )
    had["arms"] += [arm for arm in wanted["arms"] if arm not in had["arms"]]
    had["seeds"] = max(had["seeds"], wanted["seeds"])
    for name in ("python", "jax"):
        if made[name] not in found[name].split(", "):
            found[name] += f", {made[name]}"
    return found


def arms_in(made: dict[str, Any]) -> dict[str, Arm]:
    """Every arm of the folder by name, those of an earlier preset included; rules as they came, doses rising."""
    lines = [dict(line) for line in made["preset"]["arms"]]
    arms = [named_arm(line.pop("rule"), line) for line in lines]
    rules = [arm.rule for arm in arms]
    arms.sort(key=lambda arm: (rules.index(arm.rule), arm.settings))
    return {arm.name: arm for arm in arms}


def gather(out: Path, made: dict[str, Any]) -> dict[str, Any]:
    """`results.json`: what was trained, and the measures of every run."""
    runs = []
    for arm in arms_in(made).values():
        own = {"arm": arm.name, "rule": arm.rule, "settings": dict(arm.settings)}
        for seed in range(made["preset"]["seeds"]):
            path = run_folder(out, arm, seed) / "measures.json"
            if path.exists():
                runs.append(own | {"seed": seed} | json.loads(path.read_text()))
    devices = sorted({run["device"] for run in runs if "device" in run})
    results = {**made, "device": ", ".join(devices), "runs": runs}
    write_json(out / "results.json", results)
    return results
