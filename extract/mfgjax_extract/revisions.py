"""Which checkpoints of a model to visit, and the training progress their names state.

A model is a hub id, one checkpoint folder (it holds `config.json`), or a folder of checkpoint
folders. Names like `step5000-tokens20B`, `stage1-step1000-tokens5B`, `step80-tokens81920`,
`step1000` and `checkpoint-500` give the step and the tokens seen; where the name of a folder does
not, the `trainer_state.json` of the transformers `Trainer` in it does.
"""

import json
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_UNIT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_STEP = re.compile(
    r"(?:step|(?<![a-z])(?:checkpoint|ckpt|iter(?:ation)?))[-_]?(\d+)([KMB]?)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"tokens?[-_]?(\d+(?:\.\d+)?)([KMBT]?)(?![A-Za-z0-9])", re.IGNORECASE)
DEFAULT = "main"
"""Revision name of a single checkpoint folder, and the hub's default branch."""


@dataclass(frozen=True)
class Revision:
    """One checkpoint.

    Attributes:
        name: revision or folder name.
        source: what `from_pretrained` loads: a folder, or the hub id.
        hub_revision: the revision to ask the hub for, None for a folder.
        step: training steps done, None if nothing says.
        tokens_seen: training tokens seen, None if nothing says.
    """

    name: str
    source: str
    hub_revision: str | None
    step: int | None
    tokens_seen: int | None

    @property
    def label(self) -> str:
        """The name made safe for a file name."""
        return re.sub(r"[^A-Za-z0-9._+-]", "_", self.name).lstrip(".") or "_"


def parse_progress(name: str) -> tuple[int | None, int | None]:
    """`(step, tokens_seen)` that a revision name states; None where it says nothing."""
    step, tokens = _STEP.search(name), _TOKENS.search(name)
    return (
        int(step[1]) * _UNIT[step[2].upper()] if step else None,
        round(float(tokens[1]) * _UNIT[tokens[2].upper()]) if tokens else None,
    )


def list_revisions(model: str, patterns: list[str]) -> list[Revision]:
    """The checkpoints of `model` that match `patterns`, in training order.

    Args:
        model: hub id, checkpoint folder, or folder of checkpoint folders.
        patterns: revision names or globs; empty for all folders, or the hub's default branch.

    Raises:
        ValueError: nothing matches, with the names that exist.
    """
    folder = Path(model)
    if folder.is_dir():
        return _local(folder, patterns)
    if folder.is_absolute() or model.startswith("."):
        raise ValueError(f"{model}: no such folder")
    return _hub(model, patterns)


def _local(folder: Path, patterns: list[str]) -> list[Revision]:
    if (folder / "config.json").is_file():
        if patterns and patterns != [DEFAULT]:
            raise ValueError(f"{folder} is one checkpoint: it has no revisions {patterns}")
        return [Revision(DEFAULT, str(folder), None, *_progress_of_folder(folder))]
    names = sorted((p.parent.name for p in folder.glob("*/config.json")), key=_natural)
    if not names:
        raise ValueError(
            f"{folder}: no config.json in it or in its subfolders: expected a checkpoint saved "
            "by save_pretrained, or a folder of them"
        )
    chosen = _matching(names, patterns or ["*"], str(folder))
    return _in_training_order(
        [Revision(n, str(folder / n), None, *_progress_of_folder(folder / n)) for n in chosen]
    )


def _hub(model: str, patterns: list[str]) -> list[Revision]:
    wanted = patterns or [DEFAULT]
    if any(_is_glob(p) for p in wanted):
        from huggingface_hub import list_repo_refs

        try:
            refs = list_repo_refs(model)
        except Exception as error:  # no network, no such model, no access: many classes, one remedy
            raise ConnectionError(
                f"{model}: the hub does not list its revisions ({error}). Check the name and the "
                "network, or name revisions exactly"
            ) from None
        wanted = _matching([r.name for r in [*refs.branches, *refs.tags]], wanted, model)
    return _in_training_order(
        [Revision(n, model, n, *parse_progress(n)) for n in dict.fromkeys(wanted)]
    )


def _progress_of_folder(folder: Path) -> tuple[int | None, int | None]:
    """What the folder's name states, and what its trainer noted where the name is silent."""
    step, tokens = parse_progress(folder.resolve().name)
    try:
        noted = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        steps, seen = noted.get("global_step"), noted.get("num_input_tokens_seen")
    except (OSError, ValueError, AttributeError):  # none, or not the trainer's
        return step, tokens
    if step is None and isinstance(steps, int):
        step = steps
    if tokens is None and isinstance(seen, int) and seen > 0:  # the trainer counts only when told
        tokens = seen
    return step, tokens


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _matching(names: list[str], patterns: list[str], where: str) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{where}: no revision matches {pattern!r}; there are {shown}")
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def _natural(name: str) -> list:
    """Sorts `run9` before `run10`."""
    return [(int(digits or 0), word) for word, digits in re.findall(r"(\D+)|(\d+)", name)]


def _in_training_order(revisions: list[Revision]) -> list[Revision]:
    """By step, those that state none last; by tokens where only they are known; else as given."""
    if all(r.step is None and r.tokens_seen is not None for r in revisions):
        return sorted(revisions, key=lambda r: r.tokens_seen or 0)
    return sorted(revisions, key=lambda r: (r.step is None, r.step or 0, r.tokens_seen or 0))
