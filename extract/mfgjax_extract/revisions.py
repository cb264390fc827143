"""Which checkpoints of a model to visit, and the training progress their names state.

A model is a hub id, one checkpoint folder (it holds `config.json`), or a folder of checkpoint
folders. Names like `step5000-tokens20B`, `stage1-step1000-tokens5B`, `step80-tokens81920` and
`step1000` give the step and the tokens seen.
"""

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_UNIT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_STEP = re.compile(r"step[-_]?(\d+)([KMB]?)(?![A-Za-z0-9])", re.IGNORECASE)
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
        step: training steps done, None if the name does not say.
        tokens_seen: training tokens seen, None if the name does not say.
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
        return [_revision(DEFAULT, str(folder), None)]
    names = sorted(p.parent.name for p in folder.glob("*/config.json"))
    if not names:
        raise ValueError(
            f"{folder}: no config.json in it or in its subfolders: expected a checkpoint saved "
            "by save_pretrained, or a folder of them"
        )
    chosen = _matching(names, patterns or ["*"], str(folder))
    return _in_training_order([_revision(n, str(folder / n), None) for n in chosen])


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
    return _in_training_order([_revision(n, model, n) for n in dict.fromkeys(wanted)])


def _revision(name: str, source: str, hub_revision: str | None) -> Revision:
    return Revision(name, source, hub_revision, *parse_progress(name))


def _is_glob(pattern: str) -> bool:
    return any(c in pattern for c in "*?[")


def _matching(names: list[str], patterns: list[str], where: str) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            raise ValueError(f"{where}: no revision matches {pattern!r}; there are {shown}")
    return [n for n in names if any(fnmatchcase(n, p) for p in patterns)]


def _in_training_order(revisions: list[Revision]) -> list[Revision]:
    """By step or tokens where every name states it, else as given."""
    for key in ("step", "tokens_seen"):
        if all(getattr(r, key) is not None for r in revisions):
            return sorted(revisions, key=lambda r: getattr(r, key))
    return revisions
